package fetch_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"ersatz/eris"
	"ersatz/internal/fetch"
)

// heap is a source that hands over all blocks of a call at once, of which the one
// at lie is wrong.
type heap struct {
	*fake
	lie   int
	wrong int // blocks of that call which were not taken
}

func (h *heap) FetchMany(_ context.Context, size eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	is, blocks := make([]int, len(refs)), make([][]byte, len(refs))
	for i, r := range refs {
		is[i], blocks[i] = i, content(size, r)
		if i == h.lie {
			blocks[i][0] ^= 1
		}
	}
	n, err := got(is, blocks)
	if err != nil {
		h.wrong += len(refs) - n
	}
	return err
}

// Of blocks that come together, those before a lie count. Who lied is dropped, and
// another source gives the rest.
func TestManyWithALie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &heap{fake: newFake(0, 0), lie: 3}, newFake(10*ms, ms)
		m := fetch.New([]fetch.Source{{Name: "a", Fetcher: a}, {Name: "b", Fetcher: b}}, fetch.Options{})
		k := take(t, 0, 100)
		if err := k.fetch(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		k.whole()
		stats := m.Stats()
		if stats[0].Blocks != 3 || stats[1].Blocks != 97 || !errors.Is(stats[0].Err, eris.ErrCorrupt) || stats[1].Err != nil {
			t.Errorf("%+v", stats)
		}
		if a.wrong == 0 {
			t.Error("the source does not know which block was not taken")
		}
	})
}

// What comes together and is right is taken as such, into the right places.
func TestMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := fetch.New([]fetch.Source{{Name: "a", Fetcher: &heap{fake: newFake(0, 0), lie: -1}}}, fetch.Options{})
		k, together := take(t, 0, 100), 0
		err := m.FetchMany(t.Context(), eris.Size1KiB, k.refs, func(is []int, blocks [][]byte) (int, error) {
			together = max(together, len(is))
			return eris.One(k.got)(is, blocks)
		})
		if err != nil || together < 2 {
			t.Errorf("%d blocks at once, %v", together, err)
		}
		k.whole()
	})
}
