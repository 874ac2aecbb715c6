package xapisim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Pool is a running simulated pool. Its methods are safe for concurrent use.
type Pool struct {
	config   Config
	release  *release // an older one; nil of the newest
	decoder  *decoder
	handlers map[string]handler
	faults   faults
	hosts    []*host
	ctx      context.Context
	cancel   context.CancelFunc
	group    sync.WaitGroup // all goroutines of the pool, but for those of its HTTP servers

	mu              sync.Mutex // guards what follows
	coordinator     *host      // has the database; it may be down
	db              *database
	lastUse         map[string]time.Time          // of sessions
	cancels         map[string]context.CancelFunc // of tasks that are carried out
	taskEnds        map[string]time.Time          // when tasks have finished
	queued          int                           // calls that wait for a conflicting one
	registrations   map[string]*registration      // of event.register, by session
	domains         map[string]*domain            // by VM
	domainID        int64                         // the last one given
	exports         int                           // ids given out in exported files
	garbage         map[string]bool               // SRs whose new volumes are full of noise
	delegateDisks   map[string]bool               // VDIs that are, or were copied from, the disk of a delegate template
	driverless      map[string]bool               // uuids of VMs whose built-in guest has no drivers
	snapshotOrigins map[string]map[string]any     // the VM's fields at the moment of a snapshot
	logs            map[string]*cbtLog            // of changed blocks, by the uuid of a volume
	chain           map[string]*link              // of volumes on base copies and of base copies, by uuid
	capacities      map[string]int64              // of SRs, by uuid: an SR that is forgotten keeps its own
	lies            []*standingLie                // that await an occasion
	ballast         map[string]int64              // bytes that others' data takes on an SR
	coalescing      map[string]bool               // SRs whose base copies are going to be looked through
}

// New builds a pool and starts its servers. The caller must Close it.
func New(config Config) (*Pool, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	model, err := wholeModel()
	if err != nil {
		return nil, fmt.Errorf("xapisim: %w", err)
	}
	var older release
	if config.Release != "" {
		if older, err = findRelease(config.Release); err != nil {
			return nil, err
		}
		model = older.model(model)
	}
	p := &Pool{
		config: config, decoder: newDecoder(model), handlers: newHandlers(model), faults: faults{calls: map[string]int{}},
		db: newDatabase(model), lastUse: map[string]time.Time{}, cancels: map[string]context.CancelFunc{}, taskEnds: map[string]time.Time{}, registrations: map[string]*registration{},
		domains: map[string]*domain{}, garbage: map[string]bool{}, delegateDisks: map[string]bool{},
		driverless: map[string]bool{}, snapshotOrigins: map[string]map[string]any{},
		logs: map[string]*cbtLog{}, chain: map[string]*link{}, capacities: map[string]int64{}, ballast: map[string]int64{}, coalescing: map[string]bool{},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	listeners, err := listen(net.ParseIP(config.Address), config.Port, config.Hosts)
	if err != nil {
		return nil, fmt.Errorf("xapisim: %w", err)
	}
	for n, l := range listeners {
		h := &host{number: n, ip: nextIP(net.ParseIP(config.Address), n), address: l.Addr().String(), local: map[string]bool{}, state: hostServing}
		p.hosts = append(p.hosts, h)
		h.master = p.hosts[0]
		var failed error
		h.certificate, failed = newCertificate(h.ip)
		err = errors.Join(err, failed)
	}
	p.coordinator = p.hosts[0]
	if err = errors.Join(err, p.build()); err != nil {
		for _, l := range listeners {
			err = errors.Join(err, l.Close())
		}
		p.cancel()
		return nil, fmt.Errorf("xapisim: %w", err)
	}
	if config.Release != "" {
		p.age(older)
	}
	for n, h := range p.hosts {
		p.serve(h, listeners[n])
	}
	return p, nil
}

// closeGrace is how long Close lets answers that are being written go out.
const closeGrace = 2 * time.Second

// Close kills all machines, ends all calls and stops the servers. Everything that the pool has started has ended when
// it returns; the files of the VDIs stay.
func (p *Pool) Close() {
	p.cancel()
	p.mu.Lock()
	for _, d := range p.domains {
		_ = d.guest.Kill() // a machine that does not die is seen by the wait below
	}
	var servers []*http.Server // no host starts any more
	for _, h := range p.hosts {
		servers = append(servers, h.server)
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	for _, server := range servers {
		if err := server.Shutdown(ctx); err != nil {
			_ = server.Close() // what is left are connections that have sent no request
		}
	}
	p.group.Wait()
}

// Name is the pool's name.
func (p *Pool) Name() string { return p.config.Name }

// Address is the coordinator's address with its port.
func (p *Pool) Address() string { return p.hosts[p.Coordinator()].address }

// Addresses gives the addresses of all hosts, by number, with their common port. At first the coordinator is number 0.
func (p *Pool) Addresses() []string {
	var out []string
	for _, h := range p.hosts {
		out = append(out, h.address)
	}
	return out
}

// URL is where the coordinator takes JSON-RPC.
func (p *Pool) URL() string { return "https://" + p.Address() + "/jsonrpc" }

// Fingerprint is the SHA-256 of the coordinator's certificate in DER form, as 64 lower-case hexadecimal digits.
func (p *Pool) Fingerprint() string { return p.hosts[p.Coordinator()].certificate.fingerprint }

// Fingerprints gives those of all hosts, in the order of Addresses.
func (p *Pool) Fingerprints() []string {
	var out []string
	for _, h := range p.hosts {
		out = append(out, h.certificate.fingerprint)
	}
	return out
}

// VDIPath is the raw file behind a VDI, or "" when there is no VDI of that uuid. It may be read at any time; while the VDI
// is attached, it changes under the reader.
func (p *Pool) VDIPath(uuid string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, vdi := range p.db.tables["VDI"] {
		if vdi.uuid() == uuid {
			return p.volumePath(vdi)
		}
	}
	return ""
}
