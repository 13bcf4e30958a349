package gnunet

import (
	"context"
	"fmt"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
)

// window is how many blocks are put before the service is waited for: 1 MiB. A
// peer keeps twice as many for a neighbour.
const window = 32

// Put implements block.Putter: when it returns nil, the service has taken the
// block. What becomes of it in the DHT nobody says.
func (c *Client) Put(ctx context.Context, ref eris.Ref, b []byte) error {
	if err := block.CheckSize(ref, b); err != nil {
		return err
	}
	if err := c.limit(ctx, len(b)); err != nil {
		return err
	}
	err := c.put(ctx, c.message(make([]byte, 0, putLen+len(b)+headerLen), ref, b))
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("put block %s: %w", ref, err)
	}
	return err
}

// Offer implements block.Sink: it puts all blocks of a content. The DHT forgets
// them after Options.Expiry, so that it is to be offered again: see Renew.
func (c *Client) Offer(ctx context.Context, s block.Shared, open func(context.Context) (block.Content, error)) error {
	content, err := open(ctx)
	if err != nil {
		return err
	}
	defer content.Close()
	var messages []byte
	for place, n := int64(0), content.Len(); place < n; place++ {
		ref, b, err := content.Block(ctx, place)
		if err != nil {
			return err
		}
		if err := c.limit(ctx, len(b)); err != nil {
			return err
		}
		messages = c.message(messages, ref, b)
		if place%window == window-1 || place == n-1 {
			if err := c.put(ctx, messages); err != nil {
				return err
			}
			messages = messages[:0]
		}
	}
	return nil
}

// Withdraw implements block.Sink. Nothing can be taken back from the DHT: what
// was put stays until it expires, and is only not put again.
func (c *Client) Withdraw(context.Context, block.Shared) error { return nil }

// Renew is how often a content is to be offered again, so that the DHT keeps it:
// half of Options.Expiry.
func (c *Client) Renew() time.Duration { return c.opts.Expiry / 2 }

func (c *Client) message(b []byte, ref eris.Ref, data []byte) []byte {
	return appendPut(b, keyOf(ref), uint32(c.opts.Replication), time.Now().Add(c.opts.Expiry), data)
}

func (c *Client) put(ctx context.Context, messages []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.use(ctx, func(cn *conn) error { return cn.put(ctx, messages) })
}

// limit waits until a block of n bytes may be put.
func (c *Client) limit(ctx context.Context, n int) error {
	if c.opts.Limit != nil {
		if err := c.opts.Limit.WaitN(ctx, n); err != nil {
			return err
		}
	}
	return c.pace.Wait(ctx)
}
