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
	maxConns   = 4096             // connections at once; more wait to be accepted
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
	slots := make(chan struct{}, maxConns)
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTime,
		WriteTimeout:      Stall, // moved on as the client reads
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				<-slots
			}
		},
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		l := &limited{Listener: l, slots: slots, done: make(chan struct{})}
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
		if server.Shutdown(grace) != nil {
			server.Close() // what it reports, the listeners have reported
		}
		return nil
	})
	err := group.Wait()
	// All slots are free when no connection is left. Those that were cut end at
	// their next write.
	for range maxConns {
		slots <- struct{}{}
	}
	return err
}

// limited accepts a connection when a slot is free. The connection is not
// wrapped: that would hide sendfile.
type limited struct {
	net.Listener
	slots chan struct{}
	once  sync.Once
	done  chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
	}
	return c, err
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}
