package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asProgram makes the test's binary be the program.
const asProgram = "UNDERSTUDY_TEST_XAPISIM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program starts the program; it is killed when the test ends, unless it has ended by itself.
func program(t *testing.T, arguments ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	command := exec.CommandContext(ctx, os.Args[0], arguments...)
	command.Env = append(os.Environ(), asProgram+"=1", "TMPDIR="+t.TempDir())
	command.Stderr = os.Stderr
	out, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return command, bufio.NewReader(out)
}

// post makes one call that must succeed.
func post(t *testing.T, d description, method string, params ...any) any {
	t.Helper()
	result, refusal := try(t, d, method, params...)
	if refusal != nil {
		t.Fatal(method, refusal)
	}
	return result
}

// try makes one call by plain HTTPS, with the certificate pinned.
func try(t *testing.T, d description, method string, params ...any) (result, refusal any) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, // pinned below
		VerifyConnection: func(state tls.ConnectionState) error {
			if sum := sha256.Sum256(state.PeerCertificates[0].Raw); hex.EncodeToString(sum[:]) != d.Hosts[0].Fingerprint {
				return errors.New("another certificate than the printed one")
			}
			return nil
		},
	}}
	defer transport.CloseIdleConnections()
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "method": method, "params": params, "id": 1})
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: transport}).Post(d.URL+"/jsonrpc", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct{ Result, Error any }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(method, err)
	}
	return answer.Result, answer.Error
}

// TestProgram starts it with the flags of its documentation, logs in with what it prints, and ends it with each signal.
func TestProgram(t *testing.T) {
	for _, ending := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(ending.String(), func(t *testing.T) {
			command, out := program(t, "--hosts", "2", "--sr", "nfs:shared", "--sr", "ext:local,capacity=64GiB", "--network", "lan",
				"--vm", "web:8GiB,2GiB,sr=local,firmware=uefi,running", "--password", "a secret", "--json")
			var d description
			if err := json.NewDecoder(out).Decode(&d); err != nil {
				t.Fatal(err)
			}
			if len(d.Hosts) != 2 || d.URL != "https://"+d.Hosts[0].Address || d.Hosts[0].Fingerprint == d.Hosts[1].Fingerprint {
				t.Errorf("printed %+v", d)
			}
			session := post(t, d, "session.login_with_password", d.Username, d.Password, "1.0", "test")
			vm := post(t, d, "VM.get_by_uuid", session, d.VMs[0].UUID)
			if state := post(t, d, "VM.get_power_state", session, vm); state != "Running" {
				t.Errorf("the VM is %v", state)
			}
			disk := post(t, d, "VDI.get_by_uuid", session, d.VMs[0].VDIs[1])
			sr := post(t, d, "VDI.get_SR", session, disk)
			if size, name := post(t, d, "VDI.get_virtual_size", session, disk), post(t, d, "SR.get_name_label", session, sr); size != float64(2<<30) || name != "local" {
				t.Errorf("its second disk has %v bytes on %v", size, name)
			}
			if hosts := post(t, d, "host.get_all", session).([]any); len(hosts) != 2 {
				t.Errorf("%d hosts", len(hosts))
			}
			if err := errors.Join(command.Process.Signal(ending), command.Wait()); err != nil {
				t.Errorf("ended with %v", err)
			}
			if _, err := os.Stat(d.Directory); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("its folder %s is left: %v", d.Directory, err)
			}
		})
	}
}

// TestTable is what a person sees, and a folder that was named stays.
func TestTable(t *testing.T) {
	dir := t.TempDir()
	command, out := program(t, "--dir", dir, "--vm", "web:4MiB", "--address", "127.0.0.9")
	var text string
	for !strings.Contains(text, dir) { // the last line
		line, err := out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		text += line
	}
	for _, want := range []string{"https://127.0.0.9:", "xenroot", "nfs, shared", "web"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if err := errors.Join(command.Process.Signal(syscall.SIGTERM), command.Wait()); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
		t.Errorf("the folder's disks are gone: %v, %v", entries, err)
	}
}

func TestWrongUsage(t *testing.T) {
	for arguments, want := range map[string]string{
		"--hosts 0":                       "at least one",
		"--sr nfs":                        "want TYPE:NAME",
		"--sr floppy:a":                   `there is no type "floppy"`,
		"--sr nfs:a,host=1":               "a shared one has no host",
		"--sr ext:a,host=x":               "host=x",
		"--sr ext:a,colour=red":           "not known",
		"--vm :8GiB":                      "want NAME:SIZE",
		"--vm web:8GiB,firmware=coreboot": "not known",
		"--vm web:much":                   "no size",
		"--vm web:0":                      "no size",
		"--faults no-such-file":           "no such file",
		"--faults main_test.go":           "no JSON",
		"--colour":                        "unknown flag",
		"extra":                           "unknown command",
	} {
		var out, complaint bytes.Buffer
		if code := run(t.Context(), strings.Fields(arguments), &out, &complaint); code != exitUsage || !strings.Contains(complaint.String(), want) || out.Len() > 0 {
			t.Errorf("xapisim %s: exit code %d, %q, %q; want %q", arguments, code, complaint.String(), out.String(), want)
		}
	}
	var out, complaint bytes.Buffer
	if code := run(t.Context(), []string{"--vm", "web:4MiB,sr=nowhere", "--dir", t.TempDir()}, &out, &complaint); code != exitFailed {
		t.Errorf("an SR that does not exist: exit code %d, %s", code, fmt.Sprint(&complaint))
	}
}

// TestFaults: the rules of a file are at work as soon as the program is ready.
func TestFaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "faults.json")
	rules := `{"rules": [{"method": "VM.get_all", "object": "shared", "cut": "before"}, {"method": "session.logout", "error": ["INTERNAL_ERROR", "by rule"]}]}`
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	command, out := program(t, "--faults", file, "--json")
	var d description
	if err := json.NewDecoder(out).Decode(&d); err != nil {
		t.Fatal(err)
	}
	session := post(t, d, "session.login_with_password", d.Username, d.Password, "1.0", "test")
	post(t, d, "VM.get_all", session) // names no object
	if _, refusal := try(t, d, "session.logout", session); !strings.Contains(fmt.Sprint(refusal), "by rule") {
		t.Errorf("refused with %v", refusal)
	}
	if err := errors.Join(command.Process.Signal(syscall.SIGTERM), command.Wait()); err != nil {
		t.Error(err)
	}
}
