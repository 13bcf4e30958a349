package demo

import (
	"errors"
	"math"
	"net"
	"sync"
)

// cable is what a server or node has to the network: a listener whose
// connections can be cut.
type cable struct {
	net.Listener

	mu    sync.Mutex
	conns map[net.Conn]bool
	left  int64 // bytes that still go out; below 0, the cable is cut
}

var errCut = errors.New("the cable is cut")

// plug returns a cable to a new address on loopback.
func plug() (*cable, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &cable{Listener: l, conns: map[net.Conn]bool{}, left: math.MaxInt64}, nil
}

func (c *cable) url() string { return "http://" + c.Addr().String() }

// cut cuts the cable when so many more bytes have gone out; 0: at once.
func (c *cable) cut(after int64) {
	c.mu.Lock()
	c.left = after
	c.mu.Unlock()
	if after == 0 {
		c.use(1)
	}
}

// isCut reports whether the cable is cut by now.
func (c *cable) isCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left < 0
}

// use lets n bytes through, or closes all connections.
func (c *cable) use(n int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left -= n; c.left >= 0 {
		return nil
	}
	c.left = -1
	for conn := range c.conns {
		conn.Close() // nothing of it is needed any more
	}
	clear(c.conns)
	return errCut
}

// Accept implements net.Listener.
func (c *cable) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.conns[conn] = true
	c.mu.Unlock()
	c.use(0) // closes it if the cable is cut, which who reads it sees
	return plugged{conn, c}, nil
}

// plugged is a connection through a cable.
type plugged struct {
	net.Conn
	cable *cable
}

// Write implements net.Conn.
func (p plugged) Write(b []byte) (int, error) {
	if err := p.cable.use(int64(len(b))); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}

// Close implements net.Conn.
func (p plugged) Close() error {
	p.cable.mu.Lock()
	delete(p.cable.conns, p.Conn)
	p.cable.mu.Unlock()
	return p.Conn.Close()
}
