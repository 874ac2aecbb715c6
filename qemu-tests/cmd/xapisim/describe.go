package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// description is what is printed once the pool listens; its JSON form is what --json prints.
type description struct {
	Name      string            `json:"name"`
	URL       string            `json:"url"` // of the coordinator, without a path
	Username  string            `json:"username"`
	Password  string            `json:"password"`
	Hosts     []hostDescription `json:"hosts"` // the coordinator first
	SRs       []srDescription   `json:"srs"`
	Networks  []string          `json:"networks"`
	VMs       []vmDescription   `json:"vms"`
	Directory string            `json:"directory"` // of the disks
}

type hostDescription struct {
	Address     string `json:"address"`     // with its port
	Fingerprint string `json:"fingerprint"` // SHA-256 of the certificate, lower-case hexadecimal
}

type srDescription struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Shared bool   `json:"shared"`
}

type vmDescription struct {
	Name string   `json:"name"`
	UUID string   `json:"uuid"`
	VDIs []string `json:"vdis"` // uuids, by position
}

func describe(p plan, pool *xapisim.Pool) description {
	d := description{
		Name: pool.Name(), URL: "https://" + pool.Address(), Username: p.config.Username, Password: p.config.Password,
		Networks: p.config.Networks, SRs: []srDescription{}, VMs: []vmDescription{}, Directory: p.config.Dir,
	}
	fingerprints := pool.Fingerprints()
	for n, address := range pool.Addresses() {
		d.Hosts = append(d.Hosts, hostDescription{Address: address, Fingerprint: fingerprints[n]})
	}
	for _, sr := range p.config.SRs {
		d.SRs = append(d.SRs, srDescription{Name: sr.Name, Type: sr.Type, Shared: sr.Shared})
	}
	return d
}

func (d description) print(out io.Writer, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(d)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name string, values ...string) {
		_, _ = fmt.Fprintln(table, name+"\t"+strings.Join(values, "\t")) // Flush gives the error
	}
	row("pool", d.Name)
	row("address", d.URL)
	row("user", d.Username)
	row("password", d.Password)
	row("fingerprint", d.Hosts[0].Fingerprint)
	for _, host := range d.Hosts[1:] {
		row("other host", "https://"+host.Address, host.Fingerprint)
	}
	for _, sr := range d.SRs {
		row("SR", sr.Name, sr.Type+map[bool]string{true: ", shared"}[sr.Shared])
	}
	for _, name := range d.Networks {
		row("network", name)
	}
	for _, vm := range d.VMs {
		row("VM", vm.Name, vm.UUID)
		for _, vdi := range vm.VDIs {
			row("", "VDI", vdi)
		}
	}
	row("disks", d.Directory)
	return table.Flush()
}
