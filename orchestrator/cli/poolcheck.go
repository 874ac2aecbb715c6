package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// poolReport is what 'pool check' found. Its lists are never null.
type poolReport struct {
	Pool      string          `json:"pool"`
	UUID      string          `json:"uuid"`
	Findings  []finding       `json:"findings"`
	Templates []imageReport   `json:"delegate_templates"`
	Addresses addressReport   `json:"delegate_addresses"`
	Hosts     []hostReport    `json:"hosts"`
	SRs       []storageReport `json:"srs"`
}

// finding is something amiss, and what mends it.
type finding struct {
	Cause string `json:"cause"`
	Mend  string `json:"mend"`
}

type imageReport struct {
	UUID    string `json:"uuid"`
	Name    string `json:"name"`
	Version string `json:"version"`
}

type addressReport struct {
	Total int    `json:"total"`
	InUse int    `json:"in_use"`         // by delegates that are in the pool now
	DHCP  string `json:"dhcp,omitempty"` // dhcp or dhcp6: a server gives them, and Total is 0
}

type hostReport struct {
	UUID       string `json:"uuid"`
	Name       string `json:"name"`
	Address    string `json:"address"`
	Usable     bool   `json:"usable"` // enabled and alive
	FreeMemory int64  `json:"free_memory"`
}

type storageReport struct {
	UUID  string `json:"uuid"`
	Name  string `json:"name"`
	Type  string `json:"type"`
	Size  int64  `json:"size"`
	Free  int64  `json:"free"`  // -1: the SR does not tell
	Hosts int    `json:"hosts"` // usable hosts that see it
}

func (a *app) poolCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check NAME", Short: "Tell whether a pool is ready, and what is amiss", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.session(c.Context())
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // only read
			known, err := s.store.Pool(c.Context(), args[0])
			if err != nil {
				return err
			}
			found, err := checkPool(c.Context(), s, known)
			if err != nil {
				return err
			}
			if err := a.print(found, found.write); err != nil {
				return err
			}
			if len(found.Findings) > 0 {
				return fmt.Errorf("pool %s: %w: %d", known.Name, errFindings, len(found.Findings))
			}
			return nil
		},
	}
}

// checkPool looks at a pool. What it finds wrong with the pool is in the report; the error is about this machine or ctx.
func checkPool(ctx context.Context, s *session, known state.Pool) (poolReport, error) {
	found := poolReport{
		Pool: known.Name, UUID: known.UUID,
		Findings: []finding{}, Templates: []imageReport{}, Hosts: []hostReport{}, SRs: []storageReport{},
	}
	found.checkAddresses(known)
	pool, err := s.pool(ctx, known.UUID)
	var view *inventory.Pool
	if err == nil {
		view, err = inventory.Load(ctx, pool.API)
	}
	if ctx.Err() != nil {
		return found, context.Cause(ctx)
	}
	if err != nil {
		found.add(err.Error(), mendLogin(err, known))
		return found, nil
	}
	found.checkNetwork(known, view)
	found.checkHosts(view)
	found.checkStorage(view)
	found.checkTemplates(view)
	delegates, err := delegate.List(ctx, pool)
	if err != nil {
		return found, err
	}
	for _, d := range delegates {
		if d.Address != "" {
			found.Addresses.InUse++
		}
	}
	if found.Addresses.Total > 0 && found.Addresses.InUse >= found.Addresses.Total {
		found.add(fmt.Sprintf("all %d addresses for delegates are in use", found.Addresses.Total),
			"wait for the runs to end, see 'understudy delegate list', or widen the range: "+addAgain(known, "--delegate-addresses"))
	}
	return found, nil
}

func mendLogin(err error, known state.Pool) string {
	var certificate *xapi.CertificateError
	switch {
	case errors.Is(err, xapi.ErrAuthentication):
		return fmt.Sprintf("check user %q and its password; when they were changed, %s", known.Username, addAgain(known, "the right ones"))
	case errors.As(err, &certificate):
		return "when the certificate was renewed, " + addAgain(known, "--fingerprint "+certificate.Got)
	default:
		return "check that a host answers at " + strings.Join(known.Addresses, ", ") + "; when they have moved, " + addAgain(known, "the right --address")
	}
}

// addAgain says how what is known of a pool is changed.
func addAgain(known state.Pool, with string) string {
	return fmt.Sprintf("run 'understudy pool add %s' again with %s; its replicas stay", known.Name, with)
}

func (r *poolReport) add(cause, mend string) { r.Findings = append(r.Findings, finding{cause, mend}) }

func (r *poolReport) checkAddresses(known state.Pool) {
	if known.DelegateAddresses == "" {
		r.add("no addresses for delegates are set", addAgain(known, "--delegate-addresses"))
		return
	}
	ranges, err := placement.ParseAddresses(known.DelegateAddresses)
	if err != nil {
		r.add("addresses for delegates: "+err.Error(), addAgain(known, "--delegate-addresses"))
		return
	}
	r.Addresses.Total, r.Addresses.DHCP = ranges.Len(), ranges.DHCP()
}

func (r *poolReport) checkNetwork(known state.Pool, view *inventory.Pool) {
	if _, err := view.FindNetwork(known.DelegateNetwork); err != nil && known.DelegateNetwork != "" {
		r.add("the network of the delegates is gone: "+err.Error(), addAgain(known, "--"+networkFlag))
	}
}

func (r *poolReport) checkHosts(view *inventory.Pool) {
	usable := 0
	for ref, h := range view.Hosts {
		host := hostReport{UUID: h.UUID, Name: h.NameLabel, Address: h.Address, Usable: view.HostUsable(ref), FreeMemory: view.FreeMemory[ref]}
		r.Hosts = append(r.Hosts, host)
		if host.Usable {
			usable++
		} else {
			r.add(fmt.Sprintf("host %s is disabled or not alive: no delegate can run there", host.Name), "enable the host, or end its maintenance")
		}
	}
	slices.SortFunc(r.Hosts, func(a, b hostReport) int { return cmp.Compare(a.Name, b.Name) })
	if usable == 0 {
		r.add("no host can run a delegate", "enable a host")
	}
}

func (r *poolReport) checkStorage(view *inventory.Pool) {
	usable := 0
	for ref, sr := range view.SRs {
		if sr.ContentType == "iso" || sr.IsToolsSR {
			continue
		}
		free, known := inventory.FreeSpace(sr)
		if !known {
			free = -1
		}
		storage := storageReport{UUID: sr.UUID, Name: sr.NameLabel, Type: sr.Type, Size: sr.PhysicalSize, Free: free, Hosts: len(view.HostsSeeing(ref))}
		r.SRs = append(r.SRs, storage)
		if storage.Hosts > 0 {
			usable++
		}
	}
	slices.SortFunc(r.SRs, func(a, b storageReport) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID)) })
	if usable == 0 {
		r.add("no storage repository for disks is plugged on a usable host", "plug the PBD of one (xe pbd-plug)")
	}
}

func (r *poolReport) checkTemplates(view *inventory.Pool) {
	for _, t := range view.DelegateTemplates() {
		r.Templates = append(r.Templates, imageReport{UUID: t.UUID, Name: t.NameLabel, Version: t.Version})
	}
	if len(r.Templates) == 0 {
		r.add("the delegate's image is not deployed",
			fmt.Sprintf("deploy it to a storage repository that all hosts see: 'understudy delegate deploy %s --sr SR'", r.Pool))
	}
}

func (r poolReport) write(w *strings.Builder) {
	fmt.Fprintf(w, "pool %s (%s)\n", r.Pool, r.UUID)
	for _, t := range r.Templates {
		fmt.Fprintf(w, "  delegate image %s: %s (%s)\n", cmp.Or(t.Version, "of unknown version"), t.Name, t.UUID)
	}
	if r.Addresses.DHCP != "" {
		fmt.Fprintf(w, "  delegate addresses: by %s, in use %d\n", r.Addresses.DHCP, r.Addresses.InUse)
	} else {
		fmt.Fprintf(w, "  delegate addresses: %d, in use %d\n", r.Addresses.Total, r.Addresses.InUse)
	}
	for _, h := range r.Hosts {
		usable := "usable"
		if !h.Usable {
			usable = "not usable"
		}
		fmt.Fprintf(w, "  host %s (%s): %s, %s of memory free\n", h.Name, h.Address, usable, size(h.FreeMemory))
	}
	for _, sr := range r.SRs {
		free := "free space unknown"
		if sr.Free >= 0 {
			free = fmt.Sprintf("%s of %s free", size(sr.Free), size(sr.Size))
		}
		fmt.Fprintf(w, "  SR %s (%s): %s, seen by %d usable hosts\n", sr.Name, sr.Type, free, sr.Hosts)
	}
	if len(r.Findings) == 0 {
		fmt.Fprintln(w, "nothing is amiss")
	}
	for _, f := range r.Findings {
		fmt.Fprintf(w, "! %s\n  %s\n", f.Cause, f.Mend)
	}
}
