package coap

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// ServeTCP answers what comes by the connections of l, which it closes, until
// ctx ends. It returns nil then, when all connections have ended.
func (s *Server) ServeTCP(ctx context.Context, l net.Listener) error {
	return accept(ctx, l, func(ctx context.Context, conn net.Conn) {
		s.conns.run(conn, func() { s.serveStream(ctx, conn) })
	})
}

const (
	// maxHandshake bounds the handshake of DTLS.
	maxHandshake = 10 * time.Second

	// maxHandshakes is how many go on at once.
	maxHandshakes = 64
)

// ServeDTLS does the same for a listener of ListenDTLS. Those who begin a
// handshake need not be who they say, so that handshakes are counted apart: they
// do not keep away those who have a connection, or come by TCP.
func (s *Server) ServeDTLS(ctx context.Context, l net.Listener) error {
	handshakes := census{each: s.opts.PerClient, all: maxHandshakes}
	return accept(ctx, l, func(ctx context.Context, conn net.Conn) {
		known := false
		handshakes.run(conn, func() { known = s.handshake(ctx, conn) })
		if known {
			s.conns.run(conn, func() { s.serveDatagrams(ctx, &dtlsPackets{conn, s.opts.Idle}) })
		}
	})
}

// handshake reports whether a client has a key.
func (s *Server) handshake(ctx context.Context, conn net.Conn) bool {
	h, ok := conn.(interface{ HandshakeContext(context.Context) error })
	if !ok {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, min(s.opts.Stall, maxHandshake))
	defer cancel()
	return h.HandshakeContext(ctx) == nil
}

// census counts those who are served, by their addresses.
type census struct {
	each, all int // limits

	mu    sync.Mutex
	count int
	by    map[netip.Addr]int
}

// run runs serve, unless there are too many already.
func (c *census) run(conn net.Conn, serve func()) {
	addr := addrPort(conn.RemoteAddr()).Addr()
	if !c.enter(addr) {
		return
	}
	defer c.leave(addr)
	serve()
}

func (c *census) enter(a netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count >= c.all || c.by[a] >= c.each {
		return false
	}
	if c.by == nil {
		c.by = map[netip.Addr]int{}
	}
	c.count++
	c.by[a]++
	return true
}

func (c *census) leave(a netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count--
	if c.by[a]--; c.by[a] == 0 {
		delete(c.by, a)
	}
}

// accept runs serve for each connection, and closes it then. When ctx ends, the
// connections end first: a DTLS listener lets go of its address only when it has
// none left.
func accept(ctx context.Context, l net.Listener, serve func(context.Context, net.Conn)) error {
	ctx, cancel := context.WithCancel(ctx)
	live := liveConns{conns: map[net.Conn]bool{}}
	var ending sync.WaitGroup
	defer ending.Wait()
	defer cancel()
	ending.Go(func() {
		<-ctx.Done()
		live.end()
		l.Close()
	})
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		default:
			// What the system says, that too many files are open for one,
			// may pass.
			var passing *net.OpError
			if !errors.As(err, &passing) || errors.Is(err, net.ErrClosed) {
				return err
			}
			if pause(ctx, 50*time.Millisecond) != nil {
				return nil
			}
			continue
		}
		if !live.begin(conn, func() { serve(ctx, conn) }) {
			conn.Close()
		}
	}
}

// liveConns are the connections that are served.
type liveConns struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
	ended bool
	work  sync.WaitGroup
}

// begin runs serve, and closes the connection then. It returns false once all
// are to end.
func (l *liveConns) begin(conn net.Conn, serve func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.conns[conn] = true
	l.work.Go(func() {
		defer func() {
			conn.Close()
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.conns, conn)
		}()
		serve()
	})
	return true
}

// end closes all and waits for them.
func (l *liveConns) end() {
	l.mu.Lock()
	l.ended = true
	for conn := range l.conns {
		conn.Close()
	}
	l.mu.Unlock()
	l.work.Wait()
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// addrPort returns the address of a client; connections without one count as
// one client.
func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return unmap(a.AddrPort())
	case *net.UDPAddr:
		return unmap(a.AddrPort())
	}
	return netip.AddrPort{}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
