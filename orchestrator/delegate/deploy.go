package delegate

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/image/xva"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// ErrVersion says that another version of the image is deployed already, and stands in the way.
var ErrVersion = errors.New("another version of the delegate's image is deployed")

// DeploySpec says which image goes where.
type DeploySpec struct {
	Pool    *Pool  // its inventory is read anew
	SR      string // name or uuid
	Network string // name or uuid; empty: the one that carries the management of the hosts that see the SR
	Image   string // path of an XVA; beside it may lie its SHA-256, in <path>.sha256
	Upgrade bool   // take the place of older versions
	// Observe is told, one call at a time, what is being done and, of the upload, how much of it. May be nil.
	Observe func(DeployProgress)
	Log     *slog.Logger // default: none
}

// DeployProgress is how far a deployment has come.
type DeployProgress struct {
	Step       string // what is being done, in words
	Sent, Size int64  // bytes of the upload; Size is 0 for other steps
}

// Deployed is a template that delegates are cloned from.
type Deployed struct {
	Pool    string `json:"pool"`
	SR      string `json:"sr"` // uuid
	SRName  string `json:"sr_name"`
	Network string `json:"network,omitempty"` // name; empty when nothing was deployed
	UUID    string `json:"uuid"`              // of the template
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"` // of the image
	Bytes   int64  `json:"bytes"`  // of the image
	// Existing says that this version was there already: nothing was uploaded.
	Existing bool          `json:"existing"`
	Removed  []OldTemplate `json:"removed"` // older ones whose place it took
	Kept     []OldTemplate `json:"kept"`    // older ones that are not this installation's
	Duration time.Duration `json:"duration_ns"`
}

// OldTemplate is a template of an older version.
type OldTemplate struct {
	UUID    string `json:"uuid"`
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Deploy makes a template of an image in an SR of a pool, or finds that its version is there. The image is read and checked to its
// end before the pool is touched. What an interrupted deployment leaves behind is removed by the next one, or by recovery.
//
// Errors: ErrImage for an image that cannot be a delegate's, ErrVersion, state.ErrBusy while another deployment to the pool is
// under way, *inventory.NotFoundError and *inventory.AmbiguousError for SR and network, those of xapi.Client.Import.
func Deploy(ctx context.Context, spec DeploySpec) (Deployed, error) {
	began := time.Now()
	pool := *spec.Pool
	d := &deployment{DeploySpec: spec, pool: &pool, log: cmp.Or(spec.Log, slog.New(slog.DiscardHandler))}
	d.observe("checking the image")
	image, err := openImage(spec.Image)
	if err != nil {
		return Deployed{}, err
	}
	defer image.Close()
	d.image = image
	if err := d.deploy(ctx); err != nil {
		return Deployed{}, fmt.Errorf("deploying the delegate's image %s to pool %s: %w", image.version, pool.Name, withCause(ctx, err))
	}
	d.result.Duration = time.Since(began)
	return d.result, nil
}

// deployment is a Deploy under way.
type deployment struct {
	DeploySpec
	pool    *Pool
	log     *slog.Logger
	image   *image
	sr      inventory.SR
	network xapi.Ref
	saga    *saga.Saga
	run     string
	result  Deployed
}

func (d *deployment) observe(format string, values ...any) {
	if d.Observe != nil {
		d.Observe(DeployProgress{Step: fmt.Sprintf(format, values...)})
	}
}

// deploy works under a run of its own: a crash leaves a record of what was made, and there is no other deployment beside it, which
// would not find the version either, and make a second template of it.
func (d *deployment) deploy(ctx context.Context) error {
	if err := d.recover(ctx); err != nil {
		return err
	}
	begun, err := d.pool.Store.BeginRun(ctx, "", state.RunDeploy, report.Run{
		VM: report.VM{Pool: d.pool.Name, PoolUUID: d.pool.Inventory.UUID},
	})
	if err != nil {
		return err
	}
	d.run = begun.Report.ID
	ctx, stop := d.pool.Store.Keep(ctx, d.run)
	defer stop()
	d.saga = saga.New(d.pool.Store, d.run, Undoers(d.pool))
	failure := d.work(ctx)

	last := begun.Report
	last.State, last.Finished = report.StateCommitted, time.Now().UTC()
	if failure != nil {
		d.observe("removing what was not finished")
		last.State, last.Error = report.StateFailed, failure.Error()
		if ctx.Err() != nil {
			last.State = report.StateCancelled
		}
	}
	if err := d.saga.Unwind(ctx); err != nil {
		failure = errors.Join(failure, fmt.Errorf("%w; recovery tries it again", err))
	}
	return errors.Join(failure, d.pool.Store.SaveReport(context.WithoutCancel(ctx), last))
}

// recover clears the pool of what deployments before left behind.
func (d *deployment) recover(ctx context.Context) (err error) {
	d.observe("looking at the pool")
	if d.pool.Inventory, err = inventory.Load(ctx, d.pool.API); err != nil {
		return err
	}
	recovered, err := saga.Recover(ctx, d.pool.Store, Undoers(d.pool), state.RunDeploy)
	for _, r := range recovered {
		if r.Err != nil {
			d.log.Warn("an earlier deployment could not be cleaned up after; recovery tries it again", "run", r.Run.Report.ID, "cause", r.Err)
		}
	}
	return err
}

func (d *deployment) work(ctx context.Context) (err error) {
	if d.pool.Inventory, err = inventory.Load(ctx, d.pool.API); err != nil { // others may have worked until the run began
		return err
	}
	if d.sr, err = d.pool.Inventory.FindSR(d.SR); err != nil {
		return err
	}
	d.result = Deployed{
		Pool: d.pool.Name, SR: d.sr.UUID, SRName: d.sr.NameLabel, Version: d.image.version, SHA256: d.image.sum, Bytes: d.image.bytes,
		Removed: []OldTemplate{}, Kept: []OldTemplate{},
	}
	older, err := d.compare()
	if err != nil {
		return err
	}
	if !d.result.Existing {
		if err := d.check(ctx); err != nil {
			return err
		}
		if err := d.makeTemplate(ctx); err != nil {
			return err
		}
	}
	return d.replace(ctx, older)
}

// compare looks for templates on the SR: of this version, or of others.
func (d *deployment) compare() (older []inventory.Template, err error) {
	for _, t := range d.pool.Inventory.DelegateTemplates() {
		if !slices.ContainsFunc(t.Disks, func(disk inventory.Disk) bool { return disk.VDI.SR == d.sr.Ref }) {
			continue
		}
		switch {
		case t.Version == d.image.version:
			d.result.Existing, d.result.UUID, d.result.Name = true, t.UUID, t.NameLabel
		case inventory.CompareVersions(t.Version, d.image.version) > 0:
			return nil, fmt.Errorf("%w: %s (%s) on SR %s is newer, of version %s; deploy that version or a later one",
				ErrVersion, t.NameLabel, t.UUID, d.sr.NameLabel, t.Version)
		default: // another build of the same version too
			older = append(older, t)
		}
	}
	if d.Upgrade {
		return append(older, d.remains()...), nil
	}
	if len(older) > 0 && !d.result.Existing {
		return nil, fmt.Errorf("%w: %s (%s) on SR %s is of version %s; deploy with upgrade to put %s in its place",
			ErrVersion, older[0].NameLabel, older[0].UUID, d.sr.NameLabel, older[0].Version, d.image.version)
	}
	return older, nil
}

// remains are templates of ours that have lost their disk: their removal was interrupted. They belong to no SR any more.
func (d *deployment) remains() (templates []inventory.Template) {
	for ref, vm := range d.pool.Inventory.VMs {
		marker, ownership, _ := replica.Read(d.pool.Store.Installation().UUID, vm.UUID, vm.OtherConfig)
		disks, err := d.pool.Inventory.DisksOf(ref)
		if vm.IsATemplate && ownership == replica.Ours && marker.Kind == replica.KindDelegateTemplate && err == nil && len(disks) == 0 {
			templates = append(templates, inventory.Template{VM: inventory.VM{Ref: ref, VM: vm}, Version: vm.OtherConfig[xva.KeyVersion]})
		}
	}
	return templates
}

// check finds what stands in the way before anything is uploaded, and the network.
func (d *deployment) check(ctx context.Context) (err error) {
	if len(d.pool.Inventory.HostsSeeing(d.sr.Ref)) == 0 {
		return fmt.Errorf("no usable host sees SR %s: plug its PBD on one, or choose another SR", d.sr.NameLabel)
	}
	if free, known := inventory.FreeSpace(d.sr.SR); known && free < d.image.disk {
		return fmt.Errorf("SR %s has %d MiB free, the image's disk takes up to %d MiB: free space on it, or choose another SR",
			d.sr.NameLabel, free>>20, d.image.disk>>20)
	}
	if d.network, err = d.findNetwork(ctx); err != nil {
		return err
	}
	d.result.Network = d.pool.Inventory.Networks[d.network].NameLabel
	return nil
}

// findNetwork finds the network of the delegates' interface.
func (d *deployment) findNetwork(ctx context.Context) (xapi.Ref, error) {
	if d.Network != "" {
		return d.pool.Inventory.FindNetwork(d.Network)
	}
	known, err := d.pool.Store.Pool(ctx, d.pool.Inventory.UUID)
	if err != nil {
		return "", err
	}
	if known.DelegateNetwork != "" {
		return d.pool.Inventory.FindNetwork(known.DelegateNetwork)
	}
	pifs, err := xapi.AllRecords[xapi.PIF](ctx, d.pool.API, "PIF")
	if err != nil {
		return "", err
	}
	var networks []xapi.Ref
	for _, pif := range pifs {
		if pif.Management && d.pool.Inventory.HostSees(pif.Host, d.sr.Ref) && !slices.Contains(networks, pif.Network) {
			networks = append(networks, pif.Network)
		}
	}
	if len(networks) != 1 {
		return "", fmt.Errorf("the management of the hosts that see SR %s is on %d networks: name the delegates' network", d.sr.NameLabel, len(networks))
	}
	return networks[0], nil
}

// importAttempts is how often the image is uploaded at most when the pool goes away over it.
const importAttempts = 2

// makeTemplate imports and completes the template.
func (d *deployment) makeTemplate(ctx context.Context) error {
	ref, object, err := d.importImage(ctx)
	if err != nil {
		return err
	}
	d.observe("completing the template")
	d.result.UUID, d.result.Name = object.UUID, templateName(d.image.version)
	if err := d.complete(ctx, ref, object.UUID); err != nil {
		return err
	}
	return d.saga.Keep(context.WithoutCancel(ctx), object)
}

// importImage imports the image. When the pool goes away over that, as in a coordinator's fail-over, nobody can tell whether what was
// made of it is whole: it is removed, and the image uploaded again.
func (d *deployment) importImage(ctx context.Context) (xapi.Ref, state.Object, error) {
	for attempt := 1; ; attempt++ {
		// The task comes before the intent, and stands in it: the pool notes it in what it makes of the import, so that this is found
		// when nobody was there any more to be told.
		var task, ref xapi.Ref
		if err := d.pool.API.Call(ctx, "task.create", &task, "Understudy: import of the delegate's image "+d.image.version, ""); err != nil {
			return "", state.Object{}, err
		}
		intent := saga.Intent{Pool: d.pool.Inventory.UUID, Class: "VM", Kind: string(replica.KindDelegateTemplate), Origin: string(task)}
		object, err := d.saga.Create(ctx, intent, func(ctx context.Context, _ string) (uuid string, err error) {
			if ref, err = d.upload(ctx, task); err != nil {
				return "", err
			}
			return uuid, d.pool.API.Call(ctx, "VM.get_uuid", &uuid, ref)
		})
		if err == nil || ctx.Err() != nil || !xapi.IsTemporary(err) || attempt == importAttempts {
			return ref, object, err
		}
		d.log.Warn("the pool went away over an import: what it made is removed, and the image uploaded again", "pool", d.pool.Name, "cause", err)
		d.observe("the pool went away: removing what it made of the image")
		made := state.Object{Run: d.run, Pool: intent.Pool, Class: intent.Class, Kind: intent.Kind, Origin: intent.Origin}
		if unremoved := (templateRemover{d.pool}).remove(ctx, made); unremoved != nil {
			return "", state.Object{}, fmt.Errorf("%w; removing what the pool made of it: %w", err, unremoved)
		}
	}
}

// upload imports the image.
func (d *deployment) upload(ctx context.Context, task xapi.Ref) (xapi.Ref, error) {
	body, sum, err := d.image.upload()
	if err != nil {
		return "", err
	}
	progress := func(sent int64) {
		if d.Observe != nil {
			d.Observe(DeployProgress{Step: "uploading the image", Sent: sent, Size: d.image.bytes})
		}
	}
	refs, err := d.pool.API.Import(ctx, xapi.ImportOptions{SR: d.sr.Ref, Body: body, Size: d.image.bytes, Task: task, Progress: progress})
	switch {
	case err != nil:
		return "", err
	case len(refs) != 1:
		return "", fmt.Errorf("%w: the pool made %d VMs of it", ErrImage, len(refs))
	case hex.EncodeToString(sum.Sum(nil)) != d.image.sum:
		return "", fmt.Errorf("%w: the file changed while it was uploaded; try again when nobody writes it", ErrImage)
	}
	return refs[0], nil
}

// replace removes the older templates. Delegates and other clones live on without them.
func (d *deployment) replace(ctx context.Context, older []inventory.Template) error {
	if !d.Upgrade {
		return nil
	}
	installation := d.pool.Store.Installation().UUID
	for _, t := range older {
		old := OldTemplate{UUID: t.UUID, Name: t.NameLabel, Version: t.Version}
		if _, ownership, _ := replica.Read(installation, t.UUID, t.OtherConfig); ownership != replica.Ours {
			d.result.Kept = append(d.result.Kept, old)
			continue
		}
		d.observe("removing %s", t.NameLabel)
		if err := (templateRemover{d.pool}).destroy(ctx, t.Ref); err != nil {
			return fmt.Errorf("%s is complete; removing %s (%s): %w", d.result.Name, t.NameLabel, t.UUID, err)
		}
		d.result.Removed = append(d.result.Removed, old)
	}
	return nil
}
