// Package ndn asks for blocks and answers for them over Named Data Networking:
// NDN Packet Format 0.3, NDNLPv2 towards a forwarder, and the part of NFD
// Management with which a producer registers its prefix. How blocks are named is
// ours: docs/ndn.md. What comes over a face is hostile, so packets are read by
// this package itself, and bounded.
package ndn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"path"
	"time"

	"ersatz/internal/block"
)

// DefaultFace is where NFD and ndnd's forwarder listen for programs of the same
// machine.
const DefaultFace = "unix:///run/nfd/nfd.sock"

// Options may change how a Client asks. The zero value works.
type Options struct {
	// Face is the forwarder: unix:///PATH or tcp://HOST[:PORT], port 6363 if it
	// has none. Default DefaultFace.
	Face string

	// Prefix is where blocks are. Default DefaultPrefix.
	Prefix string

	// InFlight bounds the blocks that are asked for at once. Default 32.
	InFlight int

	// Idle is how long nothing may be heard of a block until it counts as
	// missing, and how long a connection may take to be made. Default 4 s.
	Idle time.Duration

	// Dial opens connections. Default: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Limiter bounds the bytes of blocks that are served; *rate.Limiter is one,
// with a burst of at least 8 KiB.
type Limiter interface {
	// WaitN returns when n bytes may be sent, or ctx's error.
	WaitN(ctx context.Context, n int) error
}

// ServerOptions may change how blocks are served. The zero value works.
type ServerOptions struct {
	// Requests bounds what the blocks are asked for at once. Default 64.
	Requests int

	// Absent is how long it takes to answer that there is no such block, so that
	// others who produce for the prefix come first. Default 200 ms; below 0, it
	// is answered at once.
	Absent time.Duration

	// Limit bounds what is sent. Default: nothing.
	Limit Limiter

	// Registered, if it is set, is called each time that the forwarder has taken
	// the prefix.
	Registered func()

	// Log gets lost connections, and errors of the blocks. Default: nothing does.
	Log *slog.Logger
}

// stall is how long a forwarder may take to read a packet. With Options.Idle after
// it, that is less than a source has to give something (block.Session).
const stall = 5 * time.Second

// endpoint is where a forwarder is.
type endpoint struct {
	network, address string
	local            bool // on this machine
	dial             func(ctx context.Context, network, address string) (net.Conn, error)
}

// parseFace reads what Options.Face has.
func parseFace(s string, dial func(context.Context, string, string) (net.Conn, error)) (endpoint, error) {
	if s == "" {
		s = DefaultFace
	}
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	u, err := url.Parse(s)
	if err != nil {
		return endpoint{}, fmt.Errorf("ndn: face: %w", err)
	}
	bad := u.User != nil || u.RawQuery != "" || u.Fragment != ""
	switch {
	case bad:
	case u.Scheme == "unix" && u.Host == "" && path.IsAbs(u.Path):
		return endpoint{"unix", u.Path, true, dial}, nil
	case u.Scheme == "tcp" && u.Hostname() != "" && (u.Path == "" || u.Path == "/"):
		port := u.Port()
		if port == "" {
			port = "6363"
		}
		ip := net.ParseIP(u.Hostname())
		local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
		return endpoint{"tcp", net.JoinHostPort(u.Hostname(), port), local, dial}, nil
	}
	return endpoint{}, fmt.Errorf("ndn: face %q is neither unix:///PATH nor tcp://HOST[:PORT]", s)
}

// connect opens a connection within limit.
func (e endpoint) connect(ctx context.Context, limit time.Duration) (*face, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := e.dial(ctx, e.network, e.address)
	if err != nil {
		return nil, err
	}
	return &face{conn: conn}, nil
}

func (o *ServerOptions) setDefaults() error {
	if o.Requests < 0 {
		return errors.New("ndn: Requests is below 0")
	}
	if o.Requests == 0 {
		o.Requests = 64
	}
	if o.Absent == 0 {
		o.Absent = 200 * time.Millisecond
	}
	if o.Registered == nil {
		o.Registered = func() {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return nil
}

// Serve answers for what blocks has with a Client of its own: see Client.Serve.
func Serve(ctx context.Context, blocks block.Getter, o Options, so ServerOptions) error {
	c, err := New(o)
	if err != nil {
		return err
	}
	return errors.Join(c.Serve(ctx, blocks, so), c.Close())
}
