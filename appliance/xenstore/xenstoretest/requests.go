package xenstoretest

import (
	"slices"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/appliance/xenstore"
)

// answer carries a request out and returns its answer. The caller holds the store's lock.
func (c *connection) answer(request xenstore.Message) xenstore.Message {
	payload, code := c.carryOut(request)
	if code != "" {
		return xenstore.Message{Type: xenstore.TypeError, Request: request.Request, Payload: []byte(code + "\x00")}
	}
	return xenstore.Message{Type: request.Type, Request: request.Request, Payload: []byte(payload)}
}

const (
	done = "OK\x00"
	// partSize is how much of a directory one answer holds.
	partSize = xenstore.MaxPayload
)

func (c *connection) carryOut(request xenstore.Message) (payload, code string) {
	s := c.store
	given, rest, ok := strings.Cut(string(request.Payload), "\x00")
	if !ok || given == "" {
		return "", "EINVAL"
	}
	path, inDomain := relative(given)
	if !inDomain {
		return "", "EACCES"
	}
	node, exists := s.nodes[path]
	switch request.Type {
	case xenstore.TypeRead, xenstore.TypeDirectory, xenstore.TypeDirectoryPart:
		if !exists {
			return "", "ENOENT"
		}
	}
	switch request.Type {
	case xenstore.TypeRead:
		return node.value, ""
	case xenstore.TypeDirectory:
		list := s.list(path)
		if len(list) > xenstore.MaxPayload {
			return "", "E2BIG"
		}
		return list, ""
	case xenstore.TypeDirectoryPart:
		return s.part(path, strings.TrimSuffix(rest, "\x00"))
	case xenstore.TypeWrite:
		return s.write(path, rest)
	case xenstore.TypeMkdir:
		if exists {
			return done, ""
		}
		return s.write(path, "")
	case xenstore.TypeRm:
		return s.rm(path)
	case xenstore.TypeWatch, xenstore.TypeUnwatch:
		token, ok := strings.CutSuffix(rest, "\x00")
		if !ok {
			return "", "EINVAL"
		}
		if request.Type == xenstore.TypeWatch {
			return c.watch(given, token)
		}
		return c.unwatch(given, token)
	default:
		return "", "ENOSYS"
	}
}

func (s *Store) write(path, value string) (payload, code string) {
	switch _, exists := s.nodes[path]; {
	case !s.owner(path).writable:
		return "", "EACCES"
	case len(value) > s.quota.Value:
		return "", "E2BIG"
	case !exists && len(s.nodes) >= s.quota.Nodes:
		return "", "EQUOTA"
	}
	s.set(path, value)
	return done, ""
}

func (s *Store) rm(path string) (payload, code string) {
	switch {
	case s.missing(path) && s.missing(parent(path)):
		return "", "ENOENT"
	case s.missing(path):
		return done, ""
	case !s.nodes[path].writable:
		return "", "EACCES"
	}
	s.remove(path)
	return done, ""
}

func (s *Store) list(path string) string {
	names := s.children(path)
	if len(names) == 0 {
		return ""
	}
	return strings.Join(names, "\x00") + "\x00"
}

// part returns generation and names from an offset; an empty name ends the list.
func (s *Store) part(path, offset string) (payload, code string) {
	list := s.list(path)
	from, err := strconv.Atoi(offset)
	if err != nil || from < 0 {
		return "", "EINVAL"
	}
	list = list[min(from, len(list)):]
	payload = strconv.Itoa(s.generation) + "\x00"
	room := partSize - len(payload) - 1
	if len(list) <= room {
		return payload + list + "\x00", ""
	}
	return payload + list[:strings.LastIndexByte(list[:room], 0)+1], ""
}

func (c *connection) watch(path, token string) (payload, code string) {
	w := watch{path: path, token: token}
	switch {
	case slices.Contains(c.watches, w):
		return "", "EEXIST"
	case len(c.watches) >= c.store.quota.Watches:
		return "", "E2BIG"
	}
	c.watches = append(c.watches, w)
	c.fire(w, path)
	return done, ""
}

func (c *connection) unwatch(path, token string) (payload, code string) {
	i := slices.Index(c.watches, watch{path: path, token: token})
	if i < 0 {
		return "", "ENOENT"
	}
	c.watches = slices.Delete(c.watches, i, i+1)
	return done, ""
}
