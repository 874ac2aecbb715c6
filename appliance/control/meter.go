package control

import (
	"net"
	"sync/atomic"
)

// Stats are bytes on the sockets of a client.
type Stats struct {
	Sent     int64 `json:"sent"`
	Received int64 `json:"received"`
}

// meter counts below TLS, so that what the line carries is counted and budgeted (design §4).
type meter struct{ sent, received atomic.Int64 }

func (m *meter) stats() Stats { return Stats{Sent: m.sent.Load(), Received: m.received.Load()} }

func (m *meter) wrap(c net.Conn) net.Conn { return &meteredConn{Conn: c, meter: m} }

type meteredConn struct {
	net.Conn
	meter *meter
}

func (c *meteredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.meter.received.Add(int64(n))
	return n, err
}

func (c *meteredConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.meter.sent.Add(int64(n))
	return n, err
}
