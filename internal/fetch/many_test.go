package fetch_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"ersatz/eris"
	"ersatz/internal/fetch"
)

// heap is a source that hands over all blocks of a call at once, of which those that
// are lies are wrong.
type heap struct {
	*fake
	lie   func(i int) bool
	taken int64
}

func (h *heap) FetchMany(_ context.Context, size eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	is, blocks := make([]int, len(refs)), make([][]byte, len(refs))
	for i, r := range refs {
		is[i], blocks[i] = i, content(size, r)
		if h.lie != nil && h.lie(i) {
			blocks[i][0] ^= 1
		}
	}
	n, err := got(is, blocks)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.taken += int64(n)
	return err
}

// Of blocks that come together, those before a lie count. Who lied is dropped, and
// another source gives the rest.
func TestManyWithALie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lie := func(i int) bool { return i == 3 }
		a, b := &heap{fake: newFake(0, 0), lie: lie}, newFake(10*ms, ms)
		m := fetch.New([]fetch.Source{{Name: "a", Fetcher: a}, {Name: "b", Fetcher: b}}, fetch.Options{})
		k := take(t, 0, 100)
		if err := k.fetch(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		k.whole()
		sa, sb := m.Stats()[0], m.Stats()[1]
		if sa.Blocks != a.taken || sa.Blocks < 3 || sa.Blocks+sb.Blocks != 100 || !errors.Is(sa.Err, eris.ErrCorrupt) || sb.Err != nil {
			t.Errorf("%d were taken: %+v, %+v", a.taken, sa, sb)
		}
	})
}

// What comes together and is right is taken as such, into the right places.
func TestMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := fetch.New([]fetch.Source{{Name: "a", Fetcher: &heap{fake: newFake(0, 0)}}}, fetch.Options{})
		k, together := take(t, 0, 100), false
		var mu sync.Mutex // of together: calls come at once
		err := m.FetchMany(t.Context(), eris.Size1KiB, k.refs, func(is []int, blocks [][]byte) (int, error) {
			mu.Lock()
			together = together || len(is) > 1
			mu.Unlock()
			return eris.One(k.got)(is, blocks)
		})
		if err != nil || !together {
			t.Errorf("several at once: %v, %v", together, err)
		}
		k.whole()
	})
}

// ready gives all blocks of a call at once, without memory of its own.
type ready struct {
	is     []int
	blocks [][]byte
}

func (*ready) Fetch(context.Context, eris.BlockSize, []eris.Ref, func(int, []byte) error) error {
	return errors.ErrUnsupported
}

func (r *ready) FetchMany(_ context.Context, _ eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	_, err := got(r.is[:len(refs)], r.blocks[:len(refs)])
	return err
}

// A mix allocates for calls, not for blocks.
func TestManyAllocs(t *testing.T) {
	const n = 512
	source := &ready{blocks: make([][]byte, n)}
	for i := range n {
		source.is = append(source.is, i)
	}
	m := fetch.New([]fetch.Source{{Name: "a", Fetcher: source, Prior: fetch.Learnt{Latency: 1, Pace: 1, Blocks: n}}}, fetch.Options{})
	refs, taken := make([]eris.Ref, n), 0
	allocs := testing.AllocsPerRun(20, func() {
		err := m.FetchMany(t.Context(), eris.Size1KiB, refs, func(is []int, _ [][]byte) (int, error) {
			taken += len(is)
			return len(is), nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	if allocs > 60 || taken != 21*n {
		t.Errorf("%v allocations for %d blocks, %d taken", allocs, n, taken)
	}
}

// adding is a source that adds to the references that it was given.
type adding struct{ *fake }

func (s adding) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	_ = append(refs, ref(-1))
	return s.fake.Fetch(ctx, size, refs, got)
}

// A source has a part of the references, which does not reach into what others have.
func TestPartsOfReferences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := fetch.New([]fetch.Source{{Name: "a", Fetcher: adding{newFake(ms, ms)}}}, fetch.Options{})
		k := take(t, 0, 20)
		want := slices.Clone(k.refs)
		err := m.Fetch(t.Context(), eris.Size1KiB, k.refs, k.got)
		if err != nil || !slices.Equal(k.refs, want) {
			t.Errorf("%v, or other references than were given", err)
		}
	})
}
