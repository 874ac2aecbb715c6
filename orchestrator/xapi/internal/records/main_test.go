package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// TestRecordsAreUpToDate compares what is committed with what the data model gives.
func TestRecordsAreUpToDate(t *testing.T) {
	model, err := datamodel.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	want, err := generate(model)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../records.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("records.go is not what the data model gives: run 'go generate ./orchestrator/xapi'")
	}
}

// TestNotesAreOfFields finds notes and exceptions for fields that the model does not have, or no more.
func TestNotesAreOfFields(t *testing.T) {
	model, err := datamodel.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	known := func(qualified string) bool {
		class, field, _ := strings.Cut(qualified, ".")
		return model.Classes[class] != nil && model.Classes[class].Field(field) != nil
	}
	for qualified := range notes {
		if !known(qualified) {
			t.Errorf("a note of %s, which is no field", qualified)
		}
	}
	for qualified := range left {
		if !known(qualified) {
			t.Errorf("%s is left out, and is no field", qualified)
		}
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]string{
		"VM_guest_metrics": "VMGuestMetrics", "is_a_template": "IsATemplate", "VCPUs_at_startup": "VCPUsAtStartup", "ipv4_allowed": "IPv4Allowed",
		"API_version_major": "APIVersionMajor", "userdevice": "UserDevice", "pv_in_pvh": "PVInPVH", "PBDs": "PBDs",
	} {
		if got := exported(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if got := enumName("vm_operations"); got != "VMOperation" {
		t.Errorf("vm_operations is %s", got)
	}
}

func TestWhatHasNoGoTypeIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		`["a","VM record","RW",null,{}]`:                         "no Go type",
		`["a","enum nothing","RW",null,{}]`:                      "no enumeration",
		`["a_b","int","RW",null,{}],["a__b","int","RW",null,{}]`: "both called",
	} {
		model, err := datamodel.Parse(strings.NewReader(`{"classes":{"VM":{"fields":[` + text + `]}}}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := generate(model); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	model := &datamodel.Model{}
	if _, err := generate(model); err == nil || !strings.Contains(err.Error(), "no class VM") {
		t.Errorf("an empty model: %v", err)
	}
}
