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
	return s.accept(ctx, l, s.serveStream)
}

// maxHandshake bounds the handshake of DTLS: those who begin one need not be who
// they say.
const maxHandshake = 10 * time.Second

// ServeDTLS does the same for a listener of ListenDTLS.
func (s *Server) ServeDTLS(ctx context.Context, l net.Listener) error {
	return s.accept(ctx, l, func(ctx context.Context, conn net.Conn) {
		if h, ok := conn.(interface{ HandshakeContext(context.Context) error }); ok {
			hctx, cancel := context.WithTimeout(ctx, min(s.opts.Stall, maxHandshake))
			err := h.HandshakeContext(hctx)
			cancel()
			if err != nil {
				return
			}
		}
		s.serveDatagrams(ctx, &dtlsPackets{conn, s.opts.Idle})
	})
}

// accept runs serve for each connection that may be, and closes it then. When
// ctx ends, the connections end first: a DTLS listener lets go of its address
// only when it has none left.
func (s *Server) accept(ctx context.Context, l net.Listener, serve func(context.Context, net.Conn)) error {
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
		addr := addrPort(conn.RemoteAddr()).Addr()
		if !s.admit(addr) {
			conn.Close()
			continue
		}
		began := live.begin(conn, func() {
			defer s.leave(addr)
			serve(ctx, conn)
		})
		if !began {
			conn.Close()
			s.leave(addr)
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
