package block

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"ersatz/eris"
)

// Reader is a Getter that has its blocks at hand, such as on a disk: it waits for
// nobody, and reads into memory that is used again.
type Reader interface {
	Getter

	// Read is Get with the block at the start of buf, which is longer than a block
	// of the size that is asked for by a byte at least. Of a longer one, it fills
	// buf.
	Read(ctx context.Context, ref eris.Ref, buf []byte) (n int, err error)
}

// Fetcher returns an eris.Fetcher that asks g for one block at a time, and for
// at most parallel blocks at once over all calls of Fetch; below 1 means 1. It
// leaves the verification to the one who asks. Of a Reader, it hands over as many
// blocks together as are hashed together.
func Fetcher(g Getter, parallel int) eris.Fetcher {
	f := &fetcher{g: g, tokens: make(chan *shelf, max(parallel, 1))}
	for range cap(f.tokens) {
		f.tokens <- nil
	}
	if r, ok := g.(Reader); ok {
		return &reading{*f, r}
	}
	return f
}

type fetcher struct {
	g      Getter
	tokens chan *shelf // one for each Get that runs
}

// Fetch implements eris.Fetcher. A block that g lacks is left out; the first
// other error ends the call.
func (f *fetcher) Fetch(ctx context.Context, _ eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	return f.spread(ctx, len(refs), 1, func(ctx context.Context, i, _ int, s *shelf) (*shelf, error) {
		b, err := f.g.Get(ctx, refs[i])
		switch {
		case errors.Is(err, eris.ErrNotFound):
			return s, nil
		case err != nil:
			return s, fmt.Errorf("block %s: %w", refs[i], err)
		}
		return s, got(i, b)
	})
}

// spread calls do for each part [from, to) of n, at most as long as many, by as many
// goroutines as there are tokens. The shelf that do returns is for who gets its token
// next.
func (f *fetcher) spread(ctx context.Context, n, many int, do func(ctx context.Context, from, to int, s *shelf) (*shelf, error)) error {
	var next atomic.Int64
	work, ctx := errgroup.WithContext(ctx)
	for range min(cap(f.tokens), (n+many-1)/many) {
		work.Go(func() error {
			for {
				from := int(next.Add(int64(many))) - many
				if from >= n {
					return nil
				}
				var s *shelf
				select {
				case s = <-f.tokens:
				case <-ctx.Done():
					return ctx.Err()
				}
				s, err := do(ctx, from, min(from+many, n), s)
				f.tokens <- s
				if err != nil {
					return err
				}
			}
		})
	}
	return work.Wait()
}

// reading is a fetcher of a Reader.
type reading struct {
	fetcher
	r Reader
}

// shelf is memory for blocks that are handed over together.
type shelf struct {
	size   eris.BlockSize
	room   []byte
	is     []int
	blocks [][]byte
}

// place is what a block takes in a shelf: there must be room for one byte more.
func (s *shelf) place() int { return int(s.size) + 64 }

func newShelf(size eris.BlockSize) *shelf {
	s := &shelf{size: size}
	s.room = make([]byte, eris.Together(size)*s.place())
	return s
}

// FetchMany implements eris.ManyFetcher, as Fetch does.
func (f *reading) FetchMany(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	return f.spread(ctx, len(refs), eris.Together(size), func(ctx context.Context, from, to int, s *shelf) (*shelf, error) {
		if s == nil || s.size != size {
			s = newShelf(size)
		}
		return s, f.read(ctx, refs, from, to, s, got)
	})
}

// read hands over the blocks of [from, to), also those before one that cannot be read.
func (f *reading) read(ctx context.Context, refs []eris.Ref, from, to int, s *shelf, got eris.GotMany) error {
	s.is, s.blocks = s.is[:0], s.blocks[:0]
	var failed error
	for i := from; i < to && failed == nil; i++ {
		buf := s.room[(i-from)*s.place():][:s.place()]
		switch n, err := f.r.Read(ctx, refs[i], buf); {
		case err == nil:
			s.is, s.blocks = append(s.is, i), append(s.blocks, buf[:n])
		case !errors.Is(err, eris.ErrNotFound):
			failed = fmt.Errorf("block %s: %w", refs[i], err)
		}
	}
	if len(s.is) > 0 {
		if _, err := got(s.is, s.blocks); err != nil {
			return err
		}
	}
	return failed
}
