package bittorrent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// listener bounds the connections that others open. One that is too much is
// closed.
type listener struct {
	net.Listener
	ctx context.Context

	mu    sync.Mutex
	total int
	from  map[netip.Addr]int
}

// listenTCP returns nil for the address "".
func listenTCP(ctx context.Context, addr string) (*listener, error) {
	if addr == "" {
		return nil, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &listener{Listener: l, ctx: ctx, from: map[netip.Addr]int{}}, nil
}

// Accept waits a little after an error: the library asks again at once, also
// while no file can be opened.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			select {
			case <-time.After(50 * time.Millisecond):
			case <-l.ctx.Done():
			}
			return nil, err
		}
		// The library would panic if it had to ban an address with a zone
		// (v1.60.0, Client.banPeerIP).
		addr := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if addr.Zone() == "" && l.take(addr) {
			return &peerConn{Conn: conn, release: sync.OnceFunc(func() { l.release(addr) })}, nil
		}
		conn.Close()
	}
}

func (l *listener) take(addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxConns || l.from[addr] >= maxPerAddr {
		return false
	}
	l.total++
	l.from[addr]++
	return true
}

func (l *listener) release(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.from[addr]--; l.from[addr] == 0 {
		delete(l.from, addr)
	}
}

// Bounds of a peer that does not read what it is sent.
const (
	// writeTime is how long it may take until one write is done.
	writeTime = time.Minute

	// readAhead is how much may come from the peer until then, in bytes. It is
	// more than is written at once, so that two who send to each other do not wait
	// for each other.
	readAhead = 256 << 10
)

// peerConn is a connection to a peer. Who does not read is not read, and hung up
// on in the end: the library keeps what it has to say to a peer, without a bound.
type peerConn struct {
	net.Conn
	release func()

	mu    sync.Mutex
	wrote chan struct{} // closed at the end of the write that goes on; nil while there is none
	ahead int           // bytes that have come meanwhile
}

// Read implements net.Conn.
func (c *peerConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	c.ahead += n
	wrote := c.wrote
	if c.ahead <= readAhead {
		wrote = nil
	}
	c.mu.Unlock()
	if wrote != nil {
		<-wrote
	}
	return n, err
}

// Write implements net.Conn. One writer is there at a time.
func (c *peerConn) Write(b []byte) (int, error) {
	wrote := make(chan struct{})
	defer close(wrote)
	c.begin(wrote)
	defer c.begin(nil)
	if err := c.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *peerConn) begin(wrote chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrote, c.ahead = wrote, 0
}

// Close implements net.Conn.
func (c *peerConn) Close() error {
	c.release()
	return c.Conn.Close()
}

// dialer connects to peers, by TCP.
type dialer struct{ net.Dialer }

// DialerNetwork implements the library's Dialer.
func (*dialer) DialerNetwork() string { return "tcp" }

// Dial implements the library's Dialer.
func (d *dialer) Dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &peerConn{Conn: conn, release: func() {}}, nil
}

// maxTracker bounds what a tracker may say on one connection, in bytes: 200
// peers are asked for. The library reads all that comes, and parses it as deeply as
// it is nested.
const maxTracker = 128 << 10

// dialTracker opens a connection to a tracker.
func dialTracker(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &bounded{Conn: conn, left: maxTracker}, nil
}

type bounded struct {
	net.Conn
	left int // bytes that may be read; one reader at a time
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("tracker sends too much")
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
