// Package gnunet has blocks in the DHT of GNUnet (R5N), by way of the DHT service
// of a peer on this machine: a client of its Unix socket, as of GNUnet 0.19.3
// (src/dht/dht.h). docs/gnunet.md says how blocks are mapped, which is ours.
//
// The DHT keeps what it likes for as long as it likes, and anybody may put
// anything: a source among others, never the only one.
package gnunet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"ersatz/eris"
	"ersatz/internal/block"
)

// DefaultSocket is where Debian's package has the socket of the DHT service. It
// may be used by members of the group gnunet.
const DefaultSocket = "/run/gnunet/gnunet-service-dht.sock"

// Options may change how a Client works. The zero value works.
type Options struct {
	// Socket is the path of the DHT service's Unix socket. Default DefaultSocket.
	Socket string

	// InFlight bounds the blocks that are looked for at once; those that are not
	// found in 0.15 s do not count any more. Default 64: that many messages a peer
	// keeps for each of its neighbours, and drops more.
	InFlight int

	// Idle is how long a block may take, while no other one of the same call
	// comes either, and how long the service may leave all unanswered. Default
	// 5 s: the service asks its neighbours at once and again after 2 s.
	Idle time.Duration

	// Expiry is how long the DHT is to keep what is put; see Client.Renew.
	// Default 48 hours.
	Expiry time.Duration

	// Replication is how many copies the DHT is to make, from 1 to 16, and how
	// many ways a request goes. Default 5, as GNUnet's own programs have it.
	Replication int

	// Rate is how many blocks are put per second: a peer drops what its neighbours
	// do not take in time, and says nothing. Default 128, which is 4 MiB of large
	// ones.
	Rate int

	// Limit bounds the bytes of blocks that are put. Default: nothing does.
	Limit Limiter
}

// Limiter bounds the bytes that a Client puts; *rate.Limiter is one, with a burst of
// at least a block.
type Limiter interface {
	// WaitN returns when n bytes may be sent, or ctx's error.
	WaitN(ctx context.Context, n int) error
}

// complete returns the options with their defaults. The error names all that is
// wrong.
func (o Options) complete() (Options, error) {
	if o.Socket == "" {
		o.Socket = DefaultSocket
	}
	if o.InFlight == 0 {
		o.InFlight = 64
	}
	if o.Idle == 0 {
		o.Idle = 5 * time.Second
	}
	if o.Expiry == 0 {
		o.Expiry = 48 * time.Hour
	}
	if o.Replication == 0 {
		o.Replication = 5
	}
	if o.Rate == 0 {
		o.Rate = 128
	}
	var errs []error
	if o.InFlight < 0 || o.Idle < 0 || o.Expiry < 0 || o.Rate < 0 {
		errs = append(errs, errors.New("InFlight, Idle, Expiry or Rate is below 0"))
	}
	if o.Replication < 1 || o.Replication > maxReplication {
		errs = append(errs, fmt.Errorf("a replication of %d is not from 1 to %d", o.Replication, maxReplication))
	}
	return o, errors.Join(errs...)
}

const (
	// soon is how long a block counts among those of InFlight at most: the peer's
	// neighbours have been asked by then.
	soon = 150 * time.Millisecond

	// maxWaits is how many blocks are waited for at once, over all calls.
	maxWaits = 1024
)

// Client has blocks in the DHT. All requests share one connection to the service,
// which is kept until it fails, and is made anew then. Errors do not name the
// service, which who mixes sources does.
type Client struct {
	opts  Options
	asks  chan struct{} // holds a token for each of InFlight
	waits chan struct{} // holds a token for each block that is waited for
	pace  *rate.Limiter
	dial  chan struct{} // who holds its one token may set conn

	mu     sync.Mutex
	conn   *conn
	closed bool
	reads  sync.WaitGroup
}

var (
	_ eris.Fetcher = (*Client)(nil)
	_ block.Putter = (*Client)(nil)
	_ block.Sink   = (*Client)(nil)
)

// New returns a client. It opens no connection yet.
func New(o Options) (*Client, error) {
	o, err := o.complete()
	if err != nil {
		return nil, fmt.Errorf("gnunet: %w", err)
	}
	return &Client{
		opts: o, asks: make(chan struct{}, o.InFlight), waits: make(chan struct{}, maxWaits), dial: make(chan struct{}, 1),
		pace: rate.NewLimiter(rate.Limit(o.Rate), window),
	}, nil
}

// Fetch implements eris.Fetcher. A block that is not found in time is one that
// the DHT lacks; so is one under whose key others have put something else.
func (c *Client) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	var last moment
	work, ctx := errgroup.WithContext(ctx)
	for i, ref := range refs {
		leave, err := c.enter(ctx)
		if err != nil {
			if first := work.Wait(); first != nil {
				return first // it ended the others, and says more
			}
			return err
		}
		work.Go(func() error {
			defer func() { <-c.waits }()
			defer leave()
			// What is not there soon leaves its place to others.
			defer time.AfterFunc(soon, leave).Stop()
			var b []byte
			err := c.use(ctx, func(cn *conn) (err error) {
				b, err = cn.get(ctx, ref, size, uint32(c.opts.Replication), &last)
				return err
			})
			switch {
			case err != nil && ctx.Err() == nil:
				return fmt.Errorf("block %s: %w", ref, err)
			case err != nil || b == nil:
				return err
			}
			leave()
			return got(i, b)
		})
	}
	return work.Wait()
}

// enter waits until one more block may be looked for. It is counted among those
// of InFlight until leave is called, and among all until a token of waits is
// taken out.
func (c *Client) enter(ctx context.Context) (leave func(), err error) {
	select {
	case c.waits <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case c.asks <- struct{}{}:
		return sync.OnceFunc(func() { <-c.asks }), nil
	case <-ctx.Done():
		<-c.waits
		return nil, ctx.Err()
	}
}

// use runs f with a connection, once more with a new one if a kept one turns out
// to be lost.
func (c *Client) use(ctx context.Context, f func(*conn) error) error {
	for again := false; ; again = true {
		cn, fresh, err := c.connect(ctx)
		if err != nil {
			return err
		}
		if err := f(cn); !errors.Is(err, errLost) || fresh || again {
			return err
		}
	}
}

// connect returns the connection, and whether it has just been made.
func (c *Client) connect(ctx context.Context) (cn *conn, fresh bool, err error) {
	select {
	case c.dial <- struct{}{}:
		defer func() { <-c.dial }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	c.mu.Lock()
	cn, closed := c.conn, c.closed
	c.mu.Unlock()
	if closed {
		return nil, false, net.ErrClosed
	}
	if cn != nil && cn.reason() == nil {
		return cn, false, nil
	}
	nc, err := (&net.Dialer{Timeout: c.opts.Idle}).DialContext(ctx, "unix", c.opts.Socket)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, false, err
	}
	cn = newConn(nc, c.opts.Idle)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, false, cn.end(net.ErrClosed)
	}
	c.conn = cn
	c.reads.Go(cn.read)
	return cn, true, nil
}

// Close ends the connection, and the requests under way with it.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.conn != nil {
		_ = c.conn.end(net.ErrClosed) // the reason it had before, if it had ended
	}
	c.mu.Unlock()
	c.reads.Wait()
	return nil
}
