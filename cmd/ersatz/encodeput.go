package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"ersatz/eris"
	"ersatz/internal/stores"
)

// putsAtOnce is how many blocks are on their way to each store.
const putsAtOnce = 32

// puts puts blocks to several stores at once. One that fails is left alone, and
// the others get all the same.
type puts struct {
	stores []*putting
	last   eris.Ref // put last: long runs of the same are put once
}

type putting struct {
	stores.Putter
	ctx  context.Context // ends when a block could not be put
	work *errgroup.Group
}

func newPuts(ctx context.Context, to []stores.Putter) *puts {
	p := &puts{}
	for _, s := range to {
		work, ctx := errgroup.WithContext(ctx)
		work.SetLimit(putsAtOnce)
		p.stores = append(p.stores, &putting{s, ctx, work})
	}
	return p
}

// put begins to put a block, and waits while too many are on their way. It
// reports whether a store is left that takes blocks.
func (p *puts) put(b eris.Block) (alive bool) {
	if b.Ref == p.last {
		return true
	}
	p.last = b.Ref
	data := slices.Clone(b.Data)
	for _, s := range p.stores {
		if s.ctx.Err() != nil {
			continue
		}
		alive = true
		s.work.Go(func() error {
			if err := s.Put(s.ctx, b.Ref, data); err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
			return nil
		})
	}
	return alive
}

// wait returns when all blocks are there, or why not in which stores.
func (p *puts) wait() error {
	var errs []error
	for _, s := range p.stores {
		errs = append(errs, s.work.Wait())
	}
	p.stores = nil
	return errors.Join(errs...)
}
