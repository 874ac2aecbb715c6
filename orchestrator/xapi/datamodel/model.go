package datamodel

import (
	"bytes"
	_ "embed"
	"sync"
)

// Qualifier tells who may set a field, and when.
type Qualifier string

// The qualifiers of the data model.
const (
	ReadWrite   Qualifier = "RW"             // by its constructor and by accessors
	Constructor Qualifier = "RO/constructor" // by its constructor; later only through a message of its own, if there is one
	Runtime     Qualifier = "RO/runtime"     // by xapi itself
)

// Model is the data model, or the part of it that was embedded. It is read-only and safe for concurrent use.
type Model struct {
	Classes map[string]*Class
	Errors  map[string][]string // names of the parameters of each error code
}

// Class is one XenAPI class.
type Class struct {
	Name     string
	Fields   []*Field // in the order of the data model
	Messages map[string]*Message
	Enums    map[string][]string // values of the enumerations that the class declares or uses, by name

	byName map[string]*Field
}

// Field looks a field up by its name; nil when the class has none of that name.
func (c *Class) Field(name string) *Field { return c.byName[name] }

// Field is one field of a class.
type Field struct {
	Name      string
	Type      Type
	Qualifier Qualifier
	Default   any // typed as Type says; nil when the data model gives none. Read-only: copy sets and maps before use.
	Lifecycle Lifecycle
}

// Required tells whether a constructor's struct must carry the field: it can be set there and has no default.
func (f *Field) Required() bool { return f.Qualifier != Runtime && f.Default == nil }

// Lifecycle says since when something exists, by the code name of a release or a version of xapi.
type Lifecycle struct {
	State      string `json:"state,omitempty"` // "" means Published
	Published  string `json:"published,omitempty"`
	Prototyped string `json:"prototyped,omitempty"`
	Deprecated string `json:"deprecated,omitempty"`
	Removed    string `json:"removed,omitempty"`
}

// Gone tells whether a message of this state is refused with MESSAGE_REMOVED. Removed fields stay in records.
func (l Lifecycle) Gone() bool { return l.State == "Removed" }

// Message is one call of a class.
type Message struct {
	Class, Name string
	Params      []Param // without the session, which every call but NoSession ones takes first
	NoSession   bool    // takes no session (session.login_with_password)
	Result      Type
	Errors      []string // error codes that the data model declares; others are possible
	MinRole     string
	Implicit    bool // a generated accessor, constructor or destructor
	Lifecycle   Lifecycle
}

// Param is one argument of a message. Arguments that are not required may be left out from the tail only.
type Param struct {
	Name     string
	Type     Type
	Required bool
}

// withoutAsync lists the classes whose messages have no asynchronous form (xapi-facts §3).
var withoutAsync = map[string]bool{"session": true, "event": true, "task": true, "blob": true, "data_source": true}

// Async tells whether the message can be called as Async.Class.name: custom messages, constructors and destructors can,
// generated accessors cannot (xapi-facts §3).
func (m *Message) Async() bool {
	if withoutAsync[m.Class] {
		return false
	}
	return !m.Implicit || m.Name == "create" || m.Name == "destroy"
}

// Mandatory counts the arguments that must be given, the session left out.
func (m *Message) Mandatory() int {
	count := 0
	for _, p := range m.Params {
		if p.Required {
			count++
		}
	}
	return count
}

//go:embed model.json
var embedded []byte

// Embedded is the data model of this package, parsed once. The error is that of a broken build: the embedded file does
// not parse.
var Embedded = sync.OnceValues(func() (*Model, error) { return Parse(bytes.NewReader(embedded)) })
