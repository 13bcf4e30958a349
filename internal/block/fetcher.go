package block

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"ersatz/eris"
)

// Fetcher returns an eris.Fetcher that asks g for one block at a time, and for
// at most parallel blocks at once over all calls of Fetch; below 1 means 1. It
// leaves the verification to the one who asks.
func Fetcher(g Getter, parallel int) eris.Fetcher {
	return &fetcher{g: g, tokens: make(chan struct{}, max(parallel, 1))}
}

type fetcher struct {
	g      Getter
	tokens chan struct{} // one for each Get that runs
}

// Fetch implements eris.Fetcher. A block that g lacks is left out; the first
// other error ends the call.
func (f *fetcher) Fetch(ctx context.Context, _ eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	var next atomic.Int64
	work, ctx := errgroup.WithContext(ctx)
	for range min(cap(f.tokens), len(refs)) {
		work.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(refs) {
					return nil
				}
				if err := f.fetch(ctx, refs[i], func(b []byte) error { return got(i, b) }); err != nil {
					return err
				}
			}
		})
	}
	return work.Wait()
}

func (f *fetcher) fetch(ctx context.Context, ref eris.Ref, got func([]byte) error) error {
	select {
	case f.tokens <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-f.tokens }()
	b, err := f.g.Get(ctx, ref)
	switch {
	case errors.Is(err, eris.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("block %s: %w", ref, err)
	}
	return got(b)
}
