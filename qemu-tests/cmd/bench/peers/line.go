package peers

import (
	"net"
	"strconv"

	"github.com/understudy-dr/understudy/netproto/line"
)

// Line is what lies between client and server.
type Line struct {
	Name string
	// Flag is what 'understudy bench --line' is told; empty: the loopback device as it is.
	Flag string
	Spec line.Spec
}

// Loopback is the loopback device as it is.
func Loopback() Line { return Line{Name: "loopback"} }

// Thin is a line of RATE,DELAY.
func Thin(flag string) (Line, error) {
	spec, err := line.ParseSpec(flag)
	if err != nil {
		return Line{}, err
	}
	name := []byte(flag)
	for i, c := range name {
		if c == ',' {
			name[i] = '-'
		}
	}
	return Line{Name: string(name), Flag: flag, Spec: spec}, nil
}

// open puts the line before a server's port. The port returned is what the client dials; passed tells the bytes, when the line has
// counted them itself.
func (l Line) open(port int) (dial int, passed func() int64, closeLine func(), err error) {
	if l.Flag == "" {
		return port, nil, func() {}, nil
	}
	p, err := line.Start(l.Spec, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), line.Options{})
	if err != nil {
		return 0, nil, nil, err
	}
	_, text, err := net.SplitHostPort(p.Addr())
	if err == nil {
		dial, err = strconv.Atoi(text)
	}
	if err != nil {
		p.Close()
		return 0, nil, nil, err
	}
	return dial, func() int64 { there, back := p.Bytes(); return there + back }, p.Close, nil
}
