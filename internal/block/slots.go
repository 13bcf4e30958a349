package block

import (
	"context"

	"golang.org/x/sync/errgroup"

	"ersatz/eris"
)

// Slots bounds the requests for single blocks that run at once, over all calls
// of Fetch, and keeps their memory for the next ones.
type Slots chan []byte

// NewSlots returns n slots.
func NewSlots(n int) Slots {
	s := make(Slots, n)
	for range n {
		s <- nil
	}
	return s
}

// Fetch asks for each block by get, as many at a time as there are slots, and
// hands it to got. get may read into buf, which has room for one byte more than
// a block has, so that one that is too long can be told; it returns nil for a
// block that is not there. The first error ends the call and the requests that
// run.
func (s Slots) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref,
	get func(ctx context.Context, ref eris.Ref, buf []byte) ([]byte, error), got func(i int, block []byte) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, ref := range refs {
		var buf []byte
		select {
		case buf = <-s:
		case <-ctx.Done():
			// If a request ended the others, its error says more.
			if err := g.Wait(); err != nil {
				return err
			}
			return ctx.Err()
		}
		g.Go(func() error {
			if len(buf) < int(size)+1 {
				buf = make([]byte, int(size)+1)
			}
			defer func() { s <- buf }()
			block, err := get(ctx, ref, buf[:int(size)+1])
			if err != nil || block == nil {
				return err
			}
			return got(i, block)
		})
	}
	return g.Wait()
}
