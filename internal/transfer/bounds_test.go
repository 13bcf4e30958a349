package transfer

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"ersatz/internal/node"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

// madeUp returns what a server that makes narinfos up says of an item: it has
// another path, a text of so many bytes, and refers to others.
func madeUp(t *testing.T, like node.Want, n, text int, refs ...string) node.Want {
	t.Helper()
	p, err := storepath.ParseBase("/gnu/store", madeUpBase(n))
	must(t, err)
	b := *like.Choice.Builds[0]
	b.Signed.NarHash, b.Signed.References = [32]byte{byte(n), byte(n >> 8), byte(n >> 16), 1}, refs
	b.Narinfos = slices.Clone(b.Narinfos)
	b.Narinfos[0].Text = make([]byte, text)
	w := node.Want{Path: p, Choice: like.Choice}
	w.Choice.Path, w.Choice.Builds = p, slices.Clone(like.Choice.Builds)
	w.Choice.Builds[0] = &b
	return w
}

func madeUpBase(n int) string { return nixbase32.Encode(fmt.Appendf(nil, "%020d", n)) + "-made-up" }

// TestTextsAreBounded: what is remembered of queries, and what is queued, has
// so many bytes of narinfos at most, however long these are.
func TestTextsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newThing(t, 1, 1000, "none")
		trans, _, _ := bubbled(t, newServers(first), Options{})
		like := first.want(t, "http://server.example")
		const text = maxTexts / 8
		for k := range 3 * 8 {
			trans.Ahead([]node.Want{madeUp(t, like, k, text)})
			if k%4 == 3 {
				after(joinFor)
			}
		}
		sum := 0
		for _, s := range trans.ahead.sets {
			sum += s.texts
		}
		if sum != maxTexts || len(trans.ahead.sets) != 2 {
			t.Errorf("%d bytes in %d sets are remembered", sum, len(trans.ahead.sets))
		}
		long := make([]node.Want, 10)
		for k := range long {
			long[k] = madeUp(t, like, k, text)
		}
		after(joinFor)
		trans.Ahead(long)
		if s := trans.ahead.latest(); s.texts != maxTexts || len(s.wants) != 8 {
			t.Errorf("one query has %d bytes", s.texts)
		}
		for range 2 {
			trans.enqueue(long[:8], false)
			trans.enqueue(long[8:], true)
			if a := &trans.ahead; a.queue.Len() != 2 || a.texts != 2*text {
				t.Errorf("%d items of %d bytes are queued", a.queue.Len(), a.texts)
			}
		}
		trans.pump() // nobody has them
		idle(t, trans)
	})
}

// TestReferencesWithoutEnd: a server that makes up narinfos, each of which refers
// to further ones, has no more of them looked for, nor held, than so many.
func TestReferencesWithoutEnd(t *testing.T) {
	for name, c := range map[string]struct{ text, most int }{
		"short": {100, maxLooked},
		"long":  {maxTexts / 100, 100 + aheadAtOnce},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := newThing(t, 1, 1000, "none")
				like := first.want(t, "http://server.example")
				var looked atomic.Int64
				trans, _, _ := bubbled(t, newServers(first), Options{Look: func(_ context.Context, p storepath.Path) (node.Want, error) {
					n := 200 * int(looked.Add(1))
					var refs []string
					for k := range 200 {
						refs = append(refs, madeUpBase(n+k))
					}
					w := madeUp(t, like, n, c.text, refs...)
					w.Path = p
					return w, nil
				}})
				found := trans.missing([]node.Want{madeUp(t, like, 0, 100, madeUpBase(1))})
				size := 0
				for _, w := range found {
					size += texts(w)
				}
				if n := int(looked.Load()); n < 100 || n > c.most || size > maxTexts {
					t.Errorf("%d were looked for, of %d bytes", n, size)
				}
			})
		})
	}
}
