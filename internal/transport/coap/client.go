package coap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"

	"ersatz/eris"
	"ersatz/internal/block"
)

// Options may change how a Client asks. The zero value works.
type Options struct {
	// InFlight bounds the blocks that are asked for at once. Default 32 over
	// TCP; 4 over UDP and DTLS, where nothing but that bounds what a slow
	// line is given.
	InFlight int

	// Idle is how long a server may be silent: over TCP, how long it may
	// leave all requests unanswered; over UDP and DTLS, how long one block
	// may take. Default 20 s.
	Idle time.Duration

	// Key is what DTLS needs, and nothing else has.
	Key Key

	// Dial opens connections. Default: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client asks one store. It is an eris.Fetcher and a block.Putter, as its URL
// grants. Over TCP, all requests share one connection. A connection is kept
// until it fails, and is made anew then. Errors do not name the server, which
// who mixes sources does.
type Client struct {
	store   Store
	options message.Options // that name the store
	opts    Options
	slots   block.Slots

	dial chan struct{} // who holds its one token may set conn
	put  chan struct{} // likewise, for blocks in parts: a store has one at a time

	mu     sync.Mutex
	conn   exchanger
	live   map[exchanger]bool // conn, and those before that still wait for answers
	closed bool
	opened int   // how often a connection was made, or could not be
	failed error // why the last one could not be; nil if it could
	reads  sync.WaitGroup
}

var (
	_ eris.Fetcher = (*Client)(nil)
	_ block.Putter = (*Client)(nil)
)

// ErrNotGranted says that the store URL does not allow what was tried.
var ErrNotGranted = errors.New("store URL does not grant it")

// New returns a client of the store at a URL: see ParseStore. It opens no
// connection yet.
func New(storeURL string, o Options) (*Client, error) {
	st, err := ParseStore(storeURL)
	if err != nil {
		return nil, err
	}
	if o.InFlight < 0 || o.Idle < 0 {
		return nil, errors.New("coap: InFlight or Idle is below 0")
	}
	if (st.Scheme == SchemeDTLS) != (len(o.Key.Secret) > 0) {
		return nil, fmt.Errorf("store URL of scheme %s: a key is for %s, which needs one", st.Scheme, SchemeDTLS)
	}
	if o.InFlight == 0 {
		o.InFlight = 4
		if st.Scheme == SchemeTCP {
			o.InFlight = 32
		}
	}
	if o.Idle == 0 {
		o.Idle = 20 * time.Second
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	return &Client{
		store: st, options: st.options(), opts: o, slots: block.NewSlots(o.InFlight),
		dial: make(chan struct{}, 1), put: make(chan struct{}, 1), live: map[exchanger]bool{},
	}, nil
}

// String returns the scheme and host of the store. Its path is left out: it may
// be a secret.
func (c *Client) String() string { return c.store.Scheme + "://" + c.store.Host }

// Fetch implements eris.Fetcher.
func (c *Client) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	if !c.store.Get {
		return fmt.Errorf("get blocks: %w", ErrNotGranted)
	}
	get := func(ctx context.Context, ref eris.Ref, buf []byte) (b []byte, err error) {
		err = c.use(ctx, func(ex exchanger) error {
			b, err = getBlock(ctx, ex, c.options, ref, buf, c.opts.Idle)
			return err
		})
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("block %s: %w", ref, err)
		}
		return b, err
	}
	return c.slots.Fetch(ctx, size, refs, get, got)
}

// Put implements block.Putter. The server finds out the reference by itself.
func (c *Client) Put(ctx context.Context, ref eris.Ref, b []byte) error {
	switch err := block.CheckSize(ref, b); {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case !c.store.Put:
		return fmt.Errorf("put block %s: %w", ref, ErrNotGranted)
	}
	if c.store.Scheme != SchemeTCP {
		select {
		case c.put <- struct{}{}:
			defer func() { <-c.put }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := c.use(ctx, func(ex exchanger) error { return putBlock(ctx, ex, c.options, b, c.opts.Idle) })
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("put block %s: %w", ref, err)
	}
	return err
}

// use runs f with a connection, once more with a new one if a kept one turns
// out to be lost.
func (c *Client) use(ctx context.Context, f func(exchanger) error) error {
	for again := false; ; again = true {
		ex, fresh, err := c.connect(ctx)
		if err != nil {
			return err
		}
		if err := f(ex); !errors.Is(err, errLost) || fresh || again {
			return err
		}
	}
}

// connect returns the connection, and whether it has just been made. Those who
// wait for one while it cannot be made do not try again, one after the other.
func (c *Client) connect(ctx context.Context) (ex exchanger, fresh bool, err error) {
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
	ex, closed, failed := c.conn, c.closed, c.failed
	opened = c.opened - opened
	c.mu.Unlock()
	switch {
	case closed:
		return nil, false, net.ErrClosed
	case opened > 0 && failed != nil:
		return nil, false, failed
	case ex != nil && ex.usable():
		return ex, false, nil
	}
	ex, read, err := c.open(ctx)
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
		ex.close()
		return nil, false, net.ErrClosed
	}
	c.conn = ex
	c.live[ex] = true
	c.reads.Go(func() {
		read()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.live, ex)
	})
	return ex, true, nil
}

// open makes a connection; read is to run until it ends.
func (c *Client) open(ctx context.Context) (ex exchanger, read func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Idle)
	defer cancel()
	network := "udp"
	if c.store.Scheme == SchemeTCP {
		network = "tcp"
	}
	conn, err := c.opts.Dial(ctx, network, c.store.Host)
	if err != nil {
		return nil, nil, err
	}
	if c.store.Scheme == SchemeTCP {
		s, err := newStream(conn, c.opts.Idle)
		if err != nil {
			return nil, nil, err
		}
		return s, s.read, nil
	}
	if c.store.Scheme == SchemeDTLS {
		if conn, err = clientDTLS(ctx, conn, c.opts.Key); err != nil {
			return nil, nil, err
		}
	}
	d := newDatagram(conn, c.opts.Idle)
	return d, d.read, nil
}

// Close ends all connections, and the requests under way with them.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	for ex := range c.live {
		ex.close()
	}
	c.mu.Unlock()
	c.reads.Wait()
	return nil
}
