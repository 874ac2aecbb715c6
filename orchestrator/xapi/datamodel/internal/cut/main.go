// Command cut writes the part of a full xenapi.json that Understudy uses: the classes named below, whole, and all error
// codes. It changes nothing inside a class, so that the facts stay those of their source.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
)

// classes are those that a replication product touches, in the order of their appearance in the output.
var classes = []string{
	"session", "task", "event", "pool", "host", "host_metrics", "SR", "PBD", "VDI", "VBD", "VM", "VM_metrics",
	"VM_guest_metrics", "VIF", "network", "PIF", "console", "VTPM",
}

type document struct {
	About   json.RawMessage            `json:"_about"`
	Errors  map[string]json.RawMessage `json:"errors"`
	Classes map[string]class           `json:"classes"`
}

type class struct {
	Lifecycle json.RawMessage            `json:"lifecycle"`
	Fields    []json.RawMessage          `json:"fields"`
	Messages  map[string]json.RawMessage `json:"messages"`
	Enums     map[string]json.RawMessage `json:"enums"`
}

func main() {
	from := flag.String("from", "", "path of the full xenapi.json")
	to := flag.String("to", "model.json", "file to write")
	flag.Parse()
	if err := run(*from, *to); err != nil {
		fmt.Fprintln(os.Stderr, "cut:", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	if from == "" {
		return errors.New("no -from: give the path of the full xenapi.json (XENAPI_JSON for go generate)")
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var full document
	if err := json.Unmarshal(text, &full); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	var out bytes.Buffer
	if err := write(&out, full); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if !json.Valid(out.Bytes()) {
		return errors.New("the written document is not JSON")
	}
	return os.WriteFile(to, out.Bytes(), 0o644)
}

func write(out *bytes.Buffer, full document) error {
	fmt.Fprintf(out, "{\"_about\":%s,\n\"errors\":{\n", compact(full.About))
	lines(out, full.Errors)
	fmt.Fprint(out, "},\n\"classes\":{\n")
	for n, name := range classes {
		c, ok := full.Classes[name]
		if !ok {
			return fmt.Errorf("class %s is missing", name)
		}
		fmt.Fprintf(out, "%q:{\"lifecycle\":%s,\n\"fields\":[\n", name, compact(c.Lifecycle))
		for i, field := range c.Fields {
			fmt.Fprintf(out, "%s%s\n", compact(field), comma(i, len(c.Fields)))
		}
		fmt.Fprint(out, "],\n\"messages\":{\n")
		lines(out, c.Messages)
		fmt.Fprint(out, "},\n\"enums\":{\n")
		lines(out, c.Enums)
		fmt.Fprintf(out, "}}%s\n", comma(n, len(classes)))
	}
	fmt.Fprint(out, "}}\n")
	return nil
}

func lines(out *bytes.Buffer, members map[string]json.RawMessage) {
	for i, name := range slices.Sorted(maps.Keys(members)) {
		fmt.Fprintf(out, "%q:%s%s\n", name, compact(members[name]), comma(i, len(members)))
	}
}

func comma(i, count int) string {
	if i+1 < count {
		return ","
	}
	return ""
}

func compact(raw json.RawMessage) string {
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return "null" // raw came out of a decoder, so it is valid; an absent member is empty
	}
	return out.String()
}
