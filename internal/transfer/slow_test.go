package transfer

import (
	"context"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/fetch"
	"ersatz/internal/upstream"
)

// lag is how long a slow server takes for each answer.
const lag = 1500 * time.Millisecond

// lagging is a slow server of blocks.
type lagging struct{ has blocks }

func (l lagging) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	return (&thread{&weave{has: l.has}, time.Now().Add(lag)}).Fetch(ctx, size, refs, got)
}

// A server that is slow to begin is put off once, and known after that: no further
// small item is looked for in networks.
func TestSlowOriginIsKnown(t *testing.T) {
	for _, hasBlocks := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := &weave{start: 2 * time.Second}
			origin := lagging{blocks{}}
			var all []*thing
			for k := range byte(4) {
				x := newThing(t, k, 100_000, "none")
				all = append(all, x)
				if hasBlocks {
					maps.Copy(origin.has, x.blocks)
				}
			}
			s := newStage(t, Options{Networks: []fetch.Network{network("ipfs", n)}}, nil, all...)
			s.set(func(ctx context.Context, _ upstream.Offer) error { return wait(ctx, lag) })
			s.trans.client = &other{s, origin}
			for k, x := range all {
				took := s.get(t, x)
				if times, _ := n.did(s.began); times != 1 || k > 0 && took != lag {
					t.Errorf("blocks %v, item %d took %v; %d look-ups so far", hasBlocks, k, took, times)
				}
				after(time.Second)
			}
			s.over(t, n)
		})
	}
}

// A network that takes long to end its search keeps nothing back but the end of the
// node.
func TestSlowToClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newThing(t, 1, 100_000, "none")
		n := &weave{has: x.blocks, ends: time.Hour}
		s := newStage(t, Options{Policy: P2POnly, Networks: []fetch.Network{network("ipfs", n)}}, nil)
		took := s.get(t, x)
		synctest.Wait()
		s.trans.mu.Lock()
		going := len(s.trans.items)
		s.trans.mu.Unlock()
		if _, err := s.trans.store.Get(x.fields.StorePath.Hash); err != nil || took > time.Second || going != 0 {
			t.Errorf("after %v: %v, %d on their way", took, err, going)
		}
		closing(t, s.trans)
		s.over(t, n)
	})
}

// That a network has nothing teaches nothing of its speed.
func TestMissesTeachNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := newThing(t, 1, 2<<20, "none"), newThing(t, 2, 2<<20, "none")
		n := &weave{start: 100 * time.Millisecond, pace: time.Millisecond, has: x.blocks}
		s := newStage(t, Options{Policy: P2POnly, Networks: []fetch.Network{network("ipfs", n)}}, nil)
		s.get(t, x)
		s.over(t, n)
		learnt := s.book.Prior("ipfs")
		n.start = 9 * time.Second
		if _, err := get(t, s.trans, y); err == nil {
			t.Error("what nobody has came")
		}
		if now := s.book.Prior("ipfs"); now != learnt || now.Latency == 0 {
			t.Errorf("learnt %+v, before %+v", now, learnt)
		}
	})
}
