package ndn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
)

// Client asks for blocks by way of a forwarder, and may serve some. It is an
// eris.Fetcher. All requests share one connection, which is kept until it fails, and is made anew
// then. Errors do not name the forwarder, which who mixes sources does.
type Client struct {
	ns    namespace
	at    endpoint
	opts  Options
	slots block.Slots

	dial   chan struct{} // who holds its one token may set conn
	serves atomic.Bool   // Serve runs

	mu     sync.Mutex
	conn   *link
	closed bool
	opened int   // how often a connection was made, or could not be
	failed error // why the last one could not be; nil if it could
	reads  sync.WaitGroup
}

var _ eris.Fetcher = (*Client)(nil)

var (
	// errLost says that the connection ended.
	errLost = errors.New("connection to the forwarder is lost")

	// errSilent says that no Interest is answered.
	errSilent = errors.New("nobody answers")
)

// New returns a client. It opens no connection yet.
func New(o Options) (*Client, error) {
	if o.InFlight < 0 || o.Idle < 0 {
		return nil, errors.New("ndn: InFlight or Idle is below 0")
	}
	if o.InFlight == 0 {
		o.InFlight = 32
	}
	if o.Idle == 0 {
		o.Idle = 4 * time.Second
	}
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.Face == "" {
		o.Face = DefaultFace
	}
	at, err := parseFace(o.Face, o.Dial)
	if err != nil {
		return nil, err
	}
	ns, err := parsePrefix(o.Prefix)
	if err != nil {
		return nil, err
	}
	return &Client{ns: ns, at: at, opts: o, slots: block.NewSlots(o.InFlight), dial: make(chan struct{}, 1)}, nil
}

// String returns the prefix and the forwarder.
func (c *Client) String() string { return c.opts.Prefix + " by " + c.opts.Face }

// Fetch implements eris.Fetcher. A block that nobody answers for in
// Options.Idle counts as missing. If nobody has answered for any block then, all
// count as missing: there is no producer, or no way to one. So does a block in
// whose place others came: anybody may answer, and the forwarder is not to blame.
func (c *Client) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	start := time.Now()
	all, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	get := func(ctx context.Context, ref eris.Ref, buf []byte) (b []byte, err error) {
		for again := false; ; again = true {
			l, fresh, err := c.connect(ctx)
			if err != nil {
				return nil, err
			}
			b, err = l.get(ctx, ref, buf, c.opts.Idle)
			if b == nil && err == nil && !l.heardSince(start) {
				cancel(errSilent)
			}
			if b != nil && eris.BlockRef(b) != ref {
				return nil, nil
			}
			if !errors.Is(err, errLost) {
				return b, err
			}
			if fresh || again {
				return nil, fmt.Errorf("block %s: %w", ref, err)
			}
		}
	}
	err := c.slots.Fetch(all, size, refs, get, got)
	if ctx.Err() == nil && errors.Is(err, context.Canceled) && errors.Is(context.Cause(all), errSilent) {
		return nil
	}
	return err
}

// connect returns the connection, and whether it has just been made. Those who
// wait for one while it cannot be made do not try again, one after the other.
func (c *Client) connect(ctx context.Context) (l *link, fresh bool, err error) {
	c.mu.Lock()
	opened := c.opened
	c.mu.Unlock()
	select {
	case c.dial <- struct{}{}:
		defer func() { <-c.dial }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	c.mu.Lock()
	l, closed, failed := c.conn, c.closed, c.failed
	opened = c.opened - opened
	c.mu.Unlock()
	switch {
	case closed:
		return nil, false, net.ErrClosed
	case opened > 0 && failed != nil:
		return nil, false, failed
	case l != nil && !l.face.closed.Load():
		return l, false, nil
	}
	f, err := c.at.connect(ctx, c.opts.Idle)
	if err != nil && ctx.Err() != nil {
		return nil, false, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opened++
	if c.failed = err; err != nil {
		return nil, false, err
	}
	if c.closed {
		f.close()
		return nil, false, net.ErrClosed
	}
	c.conn = newLink(f, c.ns, 4*c.opts.InFlight)
	c.reads.Go(c.conn.read)
	return c.conn, true, nil
}

// Close ends the connection, and the requests under way with it.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.conn != nil {
		c.conn.face.close()
	}
	c.mu.Unlock()
	c.reads.Wait()
	return nil
}
