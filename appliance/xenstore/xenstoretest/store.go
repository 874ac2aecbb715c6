package xenstoretest

import (
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/understudy-dr/understudy/appliance/xenstore"
)

// Store is one guest's part of XenStore. Paths are relative to the domain's directory, except that the guest may also use absolute
// paths below Domain.
type Store struct {
	t     testing.TB
	group sync.WaitGroup

	mu          sync.Mutex
	nodes       map[string]node // by path; the domain's own directory is ""
	generation  int             // counts changes of the tree
	quota       Quota
	connections []*connection
	held        bool
	intercept   func(request xenstore.Message, answer []byte) []byte
}

type node struct {
	value    string
	writable bool // by the guest
}

// Quota limits the guest.
type Quota struct{ Nodes, Value, Watches int }

// Domain is the path of the domain's directory.
const Domain = "/local/domain/7"

// New makes a store as xenopsd sets it up at boot: the directories that the guest may write (xapi-facts §7.3) are there, all else
// is the host's. It ends with the test.
func New(t testing.TB) *Store {
	s := &Store{t: t, nodes: map[string]node{"": {}}, quota: Quota{Nodes: 2000, Value: 2048, Watches: 128}}
	for _, path := range []string{"attr", "control", "data", "drivers", "error", "feature", "messages", "vm-data"} {
		s.nodes[path] = node{writable: true}
	}
	t.Cleanup(func() {
		s.mu.Lock()
		connections := slices.Clone(s.connections)
		s.mu.Unlock()
		for _, c := range connections {
			c.end()
		}
		s.group.Wait()
	})
	return s
}

// Connect returns the guest's end of a new connection.
func (s *Store) Connect() io.ReadWriteCloser {
	guest, host := net.Pipe()
	c := &connection{store: s, pipe: host, wake: make(chan struct{}, 1), done: make(chan struct{})}
	s.mu.Lock()
	s.connections = append(s.connections, c)
	s.mu.Unlock()
	s.group.Go(c.receive)
	s.group.Go(c.send)
	return guest
}

// Write sets a value as the host.
func (s *Store) Write(path, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(path, value)
}

// Read returns a value as the host sees it.
func (s *Store) Read(path string) (value string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.nodes[path]
	return n.value, ok
}

// Remove removes a node and all below it as the host.
func (s *Store) Remove(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(path)
}

// RewriteVMData does what VM.set_xenstore_data does to a running guest: vm-data is removed and made anew, and the guest may no
// longer write it (xapi-facts §7.2).
func (s *Store) RewriteVMData(data map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove("vm-data")
	for path, value := range data {
		s.set(path, value)
	}
}

// SetQuota replaces the guest's limits.
func (s *Store) SetQuota(q Quota) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quota = q
}

// Hold keeps all answers back, but not watch events, until release is called.
func (s *Store) Hold() (release func()) {
	s.setHeld(true)
	return func() { s.setHeld(false) }
}

func (s *Store) setHeld(held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = held
	for _, c := range s.connections {
		c.awake()
	}
}

// Intercept has each answer replaced by what f returns, any bytes; the connection is cut when that is nil. f must not block.
func (s *Store) Intercept(f func(request xenstore.Message, answer []byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = f
}

// Watches tells how many watches the guest has set.
func (s *Store) Watches() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.connections {
		n += len(c.watches)
	}
	return n
}

// RefireWatches fires each watch once, as a migration does.
func (s *Store) RefireWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.connections {
		for _, w := range c.watches {
			c.fire(w, w.path)
		}
	}
}

// relative returns a guest's path relative to the domain's directory; false when it is elsewhere.
func relative(path string) (string, bool) {
	if !strings.HasPrefix(path, "/") {
		return path, true
	}
	rest, ok := strings.CutPrefix(path, Domain)
	return strings.TrimPrefix(rest, "/"), ok && (rest == "" || rest[0] == '/')
}

// parent of a path; that of a top-level path is "".
func parent(path string) string {
	return path[:max(0, strings.LastIndexByte(path, '/'))]
}

// below tells whether path is at or below dir.
func below(path, dir string) bool {
	return path == dir || dir == "" || strings.HasPrefix(path, dir+"/")
}

// owner returns the nearest node at or above a path.
func (s *Store) owner(path string) node {
	for {
		if n, ok := s.nodes[path]; ok {
			return n
		}
		path = parent(path)
	}
}

// set writes a value and makes missing parents; new nodes have the permissions of the node above.
func (s *Store) set(path, value string) {
	writable := s.owner(path).writable
	for p := parent(path); p != ""; p = parent(p) {
		if _, ok := s.nodes[p]; !ok {
			s.nodes[p] = node{writable: writable}
		}
	}
	s.nodes[path] = node{value: value, writable: writable}
	s.changed(path)
}

func (s *Store) remove(path string) {
	maps.DeleteFunc(s.nodes, func(p string, _ node) bool { return below(p, path) })
	s.changed(path)
}

// changed fires the watches at and above a path; of those below, it was an ancestor that changed.
func (s *Store) changed(path string) {
	s.generation++
	for _, c := range s.connections {
		for _, w := range c.watches {
			at, inDomain := relative(w.path)
			switch {
			case !inDomain:
			case below(path, at):
				c.fire(w, w.path+strings.TrimPrefix(path, at))
			case below(at, path) && s.missing(at):
				c.fire(w, w.path)
			}
		}
	}
}

func (s *Store) missing(path string) bool {
	_, ok := s.nodes[path]
	return !ok
}

// children returns the names directly below a path, sorted.
func (s *Store) children(path string) []string {
	var names []string
	for p := range s.nodes {
		if p != "" && p != path && parent(p) == path {
			names = append(names, strings.TrimPrefix(p[len(path):], "/"))
		}
	}
	slices.Sort(names)
	return names
}
