package eris

import (
	"context"
	"sync"

	"ersatz/internal/lanes"
)

// ManyFetcher is a Fetcher that hands over several blocks at once where it has them
// at hand, so that they can be hashed together.
type ManyFetcher interface {
	Fetcher

	// FetchMany is Fetch with another got: blocks[k] is for refs[is[k]], and the
	// slices may be used again once got has returned, which leaves them as they are.
	// got verifies the blocks, and returns how many of them, from the first on, it
	// has taken or had before; if those are not all, the error says why the next one
	// was not taken, and none behind it was.
	FetchMany(ctx context.Context, size BlockSize, refs []Ref, got GotMany) error
}

// Together returns how many blocks a source that has them at hand does well to hand
// over at once: those that are hashed together, or lie in the processor's nearest
// cache together.
func Together(size BlockSize) int { return max(chunkBytes/int(size), lanes.Width()) }

// GotMany takes blocks, as ManyFetcher says. It is safe for concurrent use.
type GotMany func(is []int, blocks [][]byte) (n int, err error)

// FetchMany asks f for blocks: many at once if it is a ManyFetcher, else one by one.
func FetchMany(ctx context.Context, f Fetcher, size BlockSize, refs []Ref, got GotMany) error {
	if m, ok := f.(ManyFetcher); ok {
		return m.FetchMany(ctx, size, refs, got)
	}
	var all singles
	return f.Fetch(ctx, size, refs, func(i int, block []byte) error {
		s := all.get()
		defer all.put(s)
		s.is[0], s.blocks[0] = i, block
		_, err := got(s.is[:], s.blocks[:])
		return err
	})
}

// singles are used again: there is one for each block that is being taken.
type singles struct {
	mu   sync.Mutex
	free []*single
}

func (a *singles) get() *single {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(a.free)
	if n == 0 {
		return new(single)
	}
	s := a.free[n-1]
	a.free = a.free[:n-1]
	return s
}

func (a *singles) put(s *single) {
	s.blocks[0] = nil
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free = append(a.free, s)
}

// single is what GotMany takes, for one block.
type single struct {
	is     [1]int
	blocks [1][]byte
}

// One returns a got for Fetcher.Fetch as one for FetchMany: a ManyFetcher fetches
// with it where one block at a time is wanted.
func One(got func(i int, block []byte) error) GotMany {
	return func(is []int, blocks [][]byte) (int, error) {
		for k, i := range is {
			if err := got(i, blocks[k]); err != nil {
				return k, err
			}
		}
		return len(is), nil
	}
}
