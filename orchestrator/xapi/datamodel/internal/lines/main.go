// Command lines writes a xenapi.json with one field, message, enumeration or error code a line, so that a change of the
// data model can be read as a diff. It changes nothing inside a class: the facts stay those of their source.
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
		fmt.Fprintln(os.Stderr, "lines:", err)
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
	write(&out, full)
	if !json.Valid(out.Bytes()) {
		return errors.New("the written document is not JSON")
	}
	return os.WriteFile(to, out.Bytes(), 0o644)
}

func write(out *bytes.Buffer, full document) {
	fmt.Fprintf(out, "{\"_about\":%s,\n\"errors\":{\n", compact(full.About))
	lines(out, full.Errors)
	fmt.Fprint(out, "},\n\"classes\":{\n")
	for n, name := range slices.Sorted(maps.Keys(full.Classes)) {
		c := full.Classes[name]
		fmt.Fprintf(out, "%q:{\"lifecycle\":%s,\n\"fields\":[\n", name, compact(c.Lifecycle))
		for i, field := range c.Fields {
			fmt.Fprintf(out, "%s%s\n", compact(field), comma(i, len(c.Fields)))
		}
		fmt.Fprint(out, "],\n\"messages\":{\n")
		lines(out, c.Messages)
		fmt.Fprint(out, "},\n\"enums\":{\n")
		lines(out, c.Enums)
		fmt.Fprintf(out, "}}%s\n", comma(n, len(full.Classes)))
	}
	fmt.Fprint(out, "}}\n")
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
