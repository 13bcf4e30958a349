package ipfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
)

// grace is how much longer than BlockTimeout the daemon has for its answer.
const grace = 4 * time.Second

// Fetch asks the daemon for each block with block/get, 32 at a time over kept
// connections; the daemon asks its network for what it lacks. A block that
// the daemon does not find within BlockTimeout counts as missing, which the daemon
// says itself; so do all when nothing comes for a second more. Fetch implements
// eris.Fetcher.
func (c *Client) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(i int, block []byte) error) error {
	return fetch(ctx, c.slots, c.BlockTimeout+time.Second, size, refs, c.get, func(i int, block []byte) error {
		if err := got(i, block); err != nil {
			return fmt.Errorf("ipfs: %s: %w", c.api, err)
		}
		return nil
	})
}

// errLate says that a block was not found in time.
var errLate = errors.New("nothing is found in time")

// fetch is Slots.Fetch, but when nothing has come for limit all others count as
// missing: they may have to wait for their turn behind blocks that nobody has.
func fetch(ctx context.Context, slots block.Slots, limit time.Duration, size eris.BlockSize, refs []eris.Ref,
	get func(ctx context.Context, ref eris.Ref, buf []byte) ([]byte, error), got func(i int, block []byte) error) error {
	all, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(limit, func() { cancel(errLate) })
	defer late.Stop()
	err := slots.Fetch(all, size, refs, get, func(i int, block []byte) error {
		late.Reset(limit)
		return got(i, block)
	})
	if ctx.Err() == nil && errors.Is(context.Cause(all), errLate) && (errors.Is(err, context.Canceled) || errors.Is(err, errLate)) {
		return nil
	}
	return err
}

// get reads a block into buf, which has room for one byte more than a block
// has. It returns nil for a block that the daemon does not find.
func (c *Client) get(ctx context.Context, ref eris.Ref, buf []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.BlockTimeout+grace, errors.New("no answer"))
	defer cancel()
	args := url.Values{"arg": {CID(ref)}, "timeout": {c.BlockTimeout.String()}}
	resp, err := c.post(ctx, "block/get", args, "", nil)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer drain(resp)
	switch n, err := readBody(resp.Body, buf); {
	case err != nil:
		return nil, fmt.Errorf("ipfs: %s: block/get %s: %w", c.api, CID(ref), err)
	case n == len(buf):
		resp.Body.Close() // no end is to be waited for
		return buf, nil   // too long, which got finds out
	default:
		return buf[:n], c.streamError("block/get", resp)
	}
}

// readBody reads into buf until it is full, or the body has ended as it should. A
// connection that was cut is an error: io.ErrUnexpectedEOF, which io.ReadFull
// would return for the end as well.
func readBody(body io.Reader, buf []byte) (n int, err error) {
	for err == nil && n < len(buf) {
		var k int
		k, err = body.Read(buf[n:])
		n += k
	}
	if n == len(buf) || errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// isMissing reports whether the daemon said that it has no such block, or had
// not found one in time.
func isMissing(err error) bool {
	var e *RPCError
	if !errors.As(err, &e) {
		return false
	}
	for _, s := range []string{"deadline exceeded", "not found", "could not find"} {
		if strings.Contains(e.Message, s) {
			return true
		}
	}
	return false
}
