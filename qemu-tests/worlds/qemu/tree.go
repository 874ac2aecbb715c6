package qemu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// mirrored are the trees that dom0 reads (xapi-facts §7.3).
var mirrored = []string{"vm-data", "attr", "data", "feature", "control"}

const (
	maxValue = 4096 // bytes of a XenStore value (xapi-facts §7.1)
	maxKeys  = 1024 // of a guest's trees
	maxLine  = 16 << 10

	shutdownKey   = "control/shutdown"
	keyCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_@/"
)

// checkKey takes what XenStore takes (xapi-facts §7.1), in the trees that are mirrored.
func checkKey(key string) error {
	top, rest, deep := strings.Cut(key, "/")
	switch {
	case !slices.Contains(mirrored, top):
		return fmt.Errorf("key %.80q: it is in none of %v", key, mirrored)
	case deep && (rest == "" || strings.HasSuffix(key, "/") || strings.Contains(key, "//")):
		return fmt.Errorf("key %.80q: no path", key)
	case strings.Trim(key, keyCharacters) != "": // something is left, as nothing is of a key without other characters
		return fmt.Errorf("key %.80q: only letters, digits, - _ @ and / can stand in a XenStore path", key)
	}
	return nil
}

// checkEntry takes a key with its value.
func checkEntry(key, value string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if len(value) > maxValue {
		return fmt.Errorf("key %s: value of %d bytes, more than %d", key, len(value), maxValue)
	}
	return nil
}

// checkData takes what the pool may write.
func checkData(key, value string) error {
	if !strings.HasPrefix(key, "vm-data/") {
		return fmt.Errorf("key %.80q: no path below vm-data", key)
	}
	if err := checkEntry(key, value); err != nil {
		return err
	}
	if line := encodeLine(message{Write: map[string]string{key: value}}); len(line) > maxLine {
		return fmt.Errorf("key %s: its line has %d bytes, more than %d", key, len(line), maxLine)
	}
	return nil
}

// message is a line of the virtio-serial port, either way.
type message struct {
	Write  map[string]string `json:"write,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

func encodeLine(m message) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(m); err != nil {
		panic(fmt.Sprintf("qemu: a message of strings alone: %v", err))
	}
	return out.Bytes()
}

func decodeLine(line []byte) (message, error) {
	var m message
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		return message{}, err
	}
	if decoder.More() {
		return message{}, errors.New("more than one value")
	}
	return m, nil
}

// tree is what XenStore would hold of a machine. Both sides write; the port tells the guest what it has not written itself.
type tree struct {
	changed chan struct{} // has a value after a change by the guest, as Guest.Changed
	news    chan struct{} // has a value while there may be something to tell

	mu           sync.Mutex
	keys         map[string]string
	told         map[string]string // those of the pool's keys that the guest knows
	acknowledged chan struct{}     // closed when the guest removes control/shutdown; nil without a request
}

func newTree(m xapisim.Machine) *tree {
	t := &tree{
		changed: make(chan struct{}, 1), news: make(chan struct{}, 1), keys: maps.Clone(m.Data), told: maps.Clone(m.Data),
	}
	if m.Data == nil {
		t.keys, t.told = map[string]string{}, map[string]string{}
	}
	signal(t.changed)
	return t
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Changed receives after the guest has written.
func (t *tree) Changed() <-chan struct{} { return t.changed }

// Tree gives the mirrored trees, every directory as a key with an empty value.
func (t *tree) Tree() (map[string]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string]string{"vm-data": ""}
	for key := range t.keys {
		for i := range len(key) {
			if key[i] == '/' {
				out[key[:i]] = ""
			}
		}
	}
	maps.Copy(out, t.keys)
	return out, nil
}

// SetData replaces the vm-data tree.
func (t *tree) SetData(data map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(data)) {
		if err := checkData(key, data[key]); err != nil {
			return err
		}
	}
	t.mu.Lock()
	maps.DeleteFunc(t.keys, func(key, _ string) bool { return below(key, "vm-data") })
	maps.Copy(t.keys, data)
	t.mu.Unlock()
	signal(t.changed)
	signal(t.news)
	return nil
}

// below tells whether a key is another or stands in its tree.
func below(key, top string) bool {
	return key == top || strings.HasPrefix(key, top) && key[len(top)] == '/'
}

// requestShutdown writes control/shutdown. The channel is closed when the guest has removed it.
func (t *tree) requestShutdown() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.acknowledged == nil {
		t.acknowledged = make(chan struct{})
	}
	t.keys[shutdownKey] = "poweroff"
	signal(t.news)
	return t.acknowledged
}

// apply does what the guest wrote, all of it or nothing.
func (t *tree) apply(m message) error {
	for key, value := range m.Write {
		if err := checkEntry(key, value); err != nil {
			return err
		}
	}
	for _, key := range m.Remove {
		if err := checkKey(key); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	added := 0
	for key := range m.Write {
		if _, there := t.keys[key]; !there {
			added++
		}
	}
	if len(t.keys)+added > maxKeys {
		return fmt.Errorf("more than %d keys", maxKeys)
	}
	for key, value := range m.Write {
		t.keys[key] = value
		if ours(key) {
			t.told[key] = value
		}
	}
	for _, top := range m.Remove {
		gone := func(key, _ string) bool { return below(key, top) }
		maps.DeleteFunc(t.keys, gone)
		maps.DeleteFunc(t.told, gone)
		if below(shutdownKey, top) && t.acknowledged != nil {
			close(t.acknowledged)
			t.acknowledged = nil
		}
	}
	signal(t.changed)
	return nil
}

// ours tells whether the pool writes a key too.
func ours(key string) bool { return key == shutdownKey || strings.HasPrefix(key, "vm-data/") }

// untold makes the lines that bring the guest up to date, and counts them as told. Of a key that changed twice the last value is
// told, as XenStore's watches do.
func (t *tree) untold() (lines [][]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(t.told)) {
		if _, there := t.keys[key]; !there {
			lines = append(lines, encodeLine(message{Remove: []string{key}}))
			delete(t.told, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(t.keys)) {
		value := t.keys[key]
		if known, told := t.told[key]; ours(key) && (!told || known != value) {
			lines = append(lines, encodeLine(message{Write: map[string]string{key: value}}))
			t.told[key] = value
		}
	}
	return lines
}
