package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// loadAttempts bounds how often the reading starts again when deletions were missed.
	loadAttempts = 3
	// loadParallel is how many classes are read at once; a pool takes 20 calls from us in all.
	loadParallel = 4
)

// errInconsistent says that the tables do not agree with the pool's own counts.
var errInconsistent = errors.New("the pool changes faster than it can be read: try again when fewer VMs and disks come and go")

// Load reads a pool. The view is that of one moment, save for free memory, which is asked for afterwards.
func Load(ctx context.Context, api xapi.API) (*Pool, error) {
	var err error
	for range loadAttempts {
		var pool *Pool
		if pool, err = load(ctx, api); err == nil {
			return pool, nil
		}
		if !errors.Is(err, errInconsistent) {
			break
		}
	}
	return nil, fmt.Errorf("read the pool's inventory: %w", err)
}

func load(ctx context.Context, api xapi.API) (*Pool, error) {
	var pools []xapi.Ref
	if err := api.Call(ctx, "pool.get_all", &pools); err != nil {
		return nil, err
	}
	if len(pools) != 1 {
		return nil, fmt.Errorf("pool.get_all gave %d pools, one was expected", len(pools))
	}
	var token string
	if err := api.Call(ctx, "event.inject", &token, "pool", pools[0]); err != nil {
		return nil, err
	}

	pool := &Pool{Ref: pools[0], FreeMemory: map[xapi.Ref]int64{}}
	var records map[xapi.Ref]xapi.Pool
	tables := tableSet{
		"pool":         &table[xapi.Pool]{"pool", &records},
		"host":         &table[xapi.Host]{"host", &pool.Hosts},
		"host_metrics": &table[xapi.HostMetrics]{"host_metrics", &pool.HostMetrics},
		"sr":           &table[xapi.SR]{"SR", &pool.SRs},
		"pbd":          &table[xapi.PBD]{"PBD", &pool.PBDs},
		"vm":           &table[xapi.VM]{"VM", &pool.VMs},
		"vm_metrics":   &table[xapi.VMMetrics]{"VM_metrics", &pool.VMMetrics},
		"vdi":          &table[xapi.VDI]{"VDI", &pool.VDIs},
		"vbd":          &table[xapi.VBD]{"VBD", &pool.VBDs},
		"vif":          &table[xapi.VIF]{"VIF", &pool.VIFs},
		"network":      &table[xapi.Network]{"network", &pool.Networks},
	}
	if err := tables.read(ctx, api); err != nil {
		return nil, err
	}
	if err := tables.update(ctx, api, token); err != nil {
		return nil, err
	}

	pool.Record = records[pool.Ref]
	pool.UUID, pool.Coordinator = pool.Record.UUID, pool.Record.Master
	pool.Name = pool.Record.NameLabel
	if pool.Name == "" {
		pool.Name = pool.Hosts[pool.Coordinator].NameLabel
	}
	if err := pool.readFreeMemory(ctx, api); err != nil {
		return nil, err
	}
	return pool, nil
}

func (p *Pool) readFreeMemory(ctx context.Context, api xapi.API) error {
	for ref, host := range p.Hosts {
		if !p.HostUsable(ref) {
			continue
		}
		var free int64
		if err := api.Call(ctx, "host.compute_free_memory", &free, ref); err != nil {
			return fmt.Errorf("host %s: %w", host.NameLabel, err)
		}
		p.FreeMemory[ref] = free
	}
	return nil
}

// table is the records of one class, kept in the field of Pool that they belong to.
type table[T any] struct {
	class   string // as the data model spells it
	records *map[xapi.Ref]T
}

// anyTable is a table whatever its record.
type anyTable interface {
	read(ctx context.Context, api xapi.API) error
	apply(event xapi.Event) error
	size() int
}

func (t *table[T]) read(ctx context.Context, api xapi.API) error {
	records, err := xapi.AllRecords[T](ctx, api, t.class)
	*t.records = records
	return err
}

func (t *table[T]) apply(event xapi.Event) error {
	if event.Operation == xapi.EventDelete {
		delete(*t.records, event.Ref)
		return nil
	}
	var record T
	if err := event.Decode(&record); err != nil {
		return err
	}
	(*t.records)[event.Ref] = record
	return nil
}

func (t *table[T]) size() int { return len(*t.records) }

// tableSet holds the tables by class in lower case, as events spell it.
type tableSet map[string]anyTable

func (s tableSet) read(ctx context.Context, api xapi.API) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loadParallel)
	for _, one := range s {
		group.Go(func() error { return one.read(ctx, api) })
	}
	return group.Wait()
}

// update brings the tables to one moment: everything that changed since token, then the counts of that moment as
// proof that no deletion was missed.
func (s tableSet) update(ctx context.Context, api xapi.API, token string) error {
	batch, err := api.Events(ctx, slices.Sorted(maps.Keys(s)), token, 0)
	if err != nil {
		return err
	}
	for _, event := range batch.Events {
		if one, ok := s[strings.ToLower(event.Class)]; ok {
			if err := one.apply(event); err != nil {
				return err
			}
		}
	}
	for class, one := range s {
		if count, ok := batch.ValidRefCounts[class]; ok && count != int64(one.size()) {
			return fmt.Errorf("%w (%d objects of class %s, the pool counts %d)", errInconsistent, one.size(), class, count)
		}
	}
	return nil
}
