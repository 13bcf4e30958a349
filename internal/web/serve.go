// Package web is what the HTTP servers of ersatz, publish and node, have in
// common: the listening, with its limits, and the small answers.
package web

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	maxConns   = 4096             // connections at once, of this machine and of others each
	maxHeader  = 16 << 10         // bytes of a request's head
	headerTime = 20 * time.Second // for a request's head
	idleTime   = 2 * time.Minute  // between two requests
	graceTime  = 5 * time.Second  // for what is being answered when the server ends
)

// Stall bounds how long a client may take to read a piece of an answer: a
// handler that sends much moves the connection's write deadline on by it.
const Stall = 2 * time.Minute

// Serve answers on the listeners until ctx ends, then stops accepting, lets
// short answers finish for 5 seconds and cuts the others. It closes the
// listeners and returns when nothing is being answered any more: nil, or what
// broke a listener.
func Serve(ctx context.Context, listeners []net.Listener, h http.Handler, log *slog.Logger) error {
	return serve(ctx, listeners, h, nil, log, maxConns)
}

// ServeQuick is Serve, and asks q first where a request is so plain that q can
// answer it: what q has costs a tenth of what it costs net/http.
func ServeQuick(ctx context.Context, listeners []net.Listener, h http.Handler, q Quick, log *slog.Logger) error {
	return serve(ctx, listeners, h, &quickly{Quick: q}, log, maxConns)
}

func serve(ctx context.Context, listeners []net.Listener, h http.Handler, q *quickly, log *slog.Logger, most int) error {
	own, others := make(slots, most), make(slots, most)
	var fresh unused
	of := func(c net.Conn) slots {
		if a, ok := c.RemoteAddr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
			return others
		}
		return own
	}
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTime,
		WriteTimeout:      Stall, // moved on as the client reads
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnState: func(c net.Conn, state http.ConnState) {
			fresh.note(c, state)
			if l, ok := c.(*lane); ok {
				l.note(state)
			}
			if state == http.StateClosed || state == http.StateHijacked {
				<-of(c)
			}
		},
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		l := &limited{Listener: l, quick: q, of: of, others: others, done: make(chan struct{})}
		group.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	group.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceTime)
		defer cancel()
		fresh.close()
		if server.Shutdown(grace) != nil {
			server.Close() // what it reports, the listeners have reported
		}
		return nil
	})
	err := group.Wait()
	// All slots are free when no connection is left. Those that were cut end at
	// their next write.
	for range most {
		own <- struct{}{}
		others <- struct{}{}
	}
	return err
}

// unused are the connections on which nothing was asked yet. When a server ends,
// Shutdown would take them for busy (net/http, Server.closeIdleConns).
type unused struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
	over  bool
}

func (u *unused) note(c net.Conn, state http.ConnState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(u.conns, c)
	case u.over:
		c.Close()
	default:
		if u.conns == nil {
			u.conns = map[net.Conn]bool{}
		}
		u.conns[c] = true
	}
}

func (u *unused) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.over = true
	for c := range u.conns {
		c.Close()
	}
}

// slots bound connections.
type slots chan struct{}

// limited takes a slot for each connection. This machine's wait for one; other
// machines' are closed when there is none, since they could keep this machine's
// from being accepted.
type limited struct {
	net.Listener
	quick  *quickly // nil: net/http answers everything
	of     func(net.Conn) slots
	others slots
	once   sync.Once
	done   chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		s := l.of(c)
		select {
		case s <- struct{}{}:
			return newLane(prompt(c), l.quick), nil
		default:
		}
		if s == l.others {
			c.Close()
			continue
		}
		select {
		case s <- struct{}{}:
			return newLane(prompt(c), l.quick), nil
		case <-l.done:
			c.Close()
			return nil, net.ErrClosed
		}
	}
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}
