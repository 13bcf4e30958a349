package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/internal/keep"
	"ersatz/internal/node"
	"ersatz/storepath"
)

// chain returns items of which each refers to the one before.
func chain(t *testing.T, n int) []*thing {
	t.Helper()
	var all []*thing
	for k := range n {
		x := newThing(t, byte(k+1), 1000, "none")
		if k > 0 {
			x.fields.References = []string{all[k-1].base()}
		}
		all = append(all, x)
	}
	return all
}

func (x *thing) base() string { return x.fields.StorePath.Base() }

// query says that all of the things may be asked for, the last first.
func query(t *testing.T, trans *Transfers, things ...*thing) {
	t.Helper()
	var wants []node.Want
	for _, x := range slices.Backward(things) {
		wants = append(wants, x.want(t, "http://server.example"))
	}
	trans.Ahead(wants)
}

func bases(things []*thing) (all []string) {
	for _, x := range things {
		all = append(all, x.base())
	}
	return all
}

// After the first item of a query all others come by themselves, references first
// and a few at once; who has them is asked once.
func TestAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		things := chain(t, 20)
		s := newServers(things...)
		trans, store, book := bubbled(t, s, Options{})
		crowd := newCrowd(t, book, "near", "far")
		trans.o.Peers = crowd
		query(t, trans, things...)
		after(time.Minute)
		synctest.Wait()
		if asked, _, _ := s.did(); len(asked) > 0 || crowd.asked.Load() > 0 {
			t.Fatalf("before anybody asked: %q, peers %d times", asked, crowd.asked.Load())
		}
		gate := s.waiting(things[0])
		gotten(t, trans, things[0])
		synctest.Wait()
		if _, now, _ := s.did(); now != aheadAtOnce {
			t.Errorf("%d at once", now)
		}
		close(gate)
		synctest.Wait()
		asked, now, most := s.did()
		if slices.Sort(asked); now != 0 || most > 1+aheadAtOnce || len(asked) != len(things) || len(slices.Compact(asked)) != len(things) {
			t.Errorf("%d at once, %d are asked for: %q", most, now, asked)
		}
		if crowd.asked.Load() != 2 { // for the first, and for all others
			t.Errorf("peers were asked %d times", crowd.asked.Load())
		}
		for k, x := range things {
			i, err := store.Get(x.fields.StorePath.Hash)
			if err != nil || i.Asked != (k == 0) {
				t.Errorf("item %d: asked %v, %v", k, i.Asked, err)
			}
		}
		for _, x := range things {
			gotten(t, trans, x)
		}
		if again, _, _ := s.did(); len(again) != len(things) {
			t.Errorf("asked for again: %q", again)
		}
		i, err := store.Get(things[9].fields.StorePath.Hash)
		if err != nil || !i.Asked {
			t.Errorf("after it was asked for: %+v, %v", i, err)
		}
		idle(t, trans)
	})
}

// idle wants nothing to be counted as ahead of what was asked for.
func idle(t *testing.T, trans *Transfers) {
	t.Helper()
	synctest.Wait()
	trans.mu.Lock()
	defer trans.mu.Unlock()
	if a := &trans.ahead; a.bytes != 0 || len(a.out) != 0 || a.running != 0 || a.queue.Len() != 0 || len(a.queued) != 0 || a.texts != 0 {
		t.Errorf("%d bytes of %d items ahead, %d run, %d and %d are queued", a.bytes, len(a.out), a.running, a.queue.Len(), len(a.queued))
	}
}

// They begin in the order in which the daemon installs them, and at most so many
// are under way.
func TestAheadInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		things := chain(t, 30)
		s := newServers(things...)
		trans, _, _ := bubbled(t, s, Options{})
		query(t, trans, things...)
		steps := s.waiting(things[0])
		gotten(t, trans, things[0])
		synctest.Wait()
		asked, now, _ := s.did()
		if first := bases(things[:len(asked)]); now > aheadAtOnce || !sameSet(asked, first) {
			t.Fatalf("%d at once: %q, want %q", now, asked, first)
		}
		for range len(things) {
			select {
			case steps <- struct{}{}:
			default:
			}
			synctest.Wait()
			asked, now, _ := s.did()
			if first := bases(things[:len(asked)]); now > aheadAtOnce || !sameSet(asked, first) {
				t.Fatalf("%d at once: %q, want %q", now, asked, first)
			}
		}
		if asked, now, _ := s.did(); len(asked) != len(things) || now != 0 {
			t.Errorf("%d of %d were asked for, %d still are", len(asked), len(things), now)
		}
	})
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// sized returns what a server says of an item whose nar it says is of a size.
func sized(t *testing.T, x *thing, size uint64) node.Want {
	w := x.want(t, "http://server.example")
	w.Choice.Builds[0].Nars[0].Nar.FileSize = size
	return w
}

// No more than 64 MiB are fetched ahead of what is asked for; what is large never
// is. What nobody asks for in 10 minutes does not stand in the way of the rest.
func TestAheadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var things []*thing
		for k := range 24 {
			things = append(things, newThing(t, byte(k+1), 1000, "none"))
		}
		s := newServers(things...)
		trans, _, _ := bubbled(t, s, Options{})
		var wants []node.Want
		for k, x := range things {
			size := uint64(aheadMost)
			if k == 2 {
				size++
			}
			wants = append(wants, sized(t, x, size))
		}
		trans.Ahead(wants)
		steps := func(want int) {
			t.Helper()
			synctest.Wait()
			if asked, _, _ := s.did(); len(asked) != want || slices.Contains(asked, things[2].base()) {
				t.Fatalf("%d were asked for, not %d: %q", len(asked), want, asked)
			}
		}
		gotten(t, trans, things[0])
		const fit = aheadBytes / aheadMost
		steps(1 + fit)
		gotten(t, trans, things[1]) // makes room for one
		steps(1 + fit + 1)
		gotten(t, trans, things[1]) // none was outstanding
		steps(1 + fit + 1)
		after(aheadFor - time.Second)
		gotten(t, trans, things[0])
		steps(1 + fit + 1)
		after(2 * time.Second)
		gotten(t, trans, things[3]) // all are too old by now
		steps(len(things) - 1)
	})
}

// What cannot be fetched takes no room, nor does what is there already, nor one nar
// twice.
func TestAheadLeavesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, missing, kept, there, twin := newThing(t, 1, 1000, "none"), newThing(t, 2, 1000, "none"),
			newThing(t, 3, 1000, "none"), newThing(t, 4, 1000, "none"), newThing(t, 5, 1000, "none")
		other := *twin
		var err error
		other.fields.StorePath, err = storepath.ParseBase("/gnu/store", "0"+twin.base()[1:])
		must(t, err)
		there.fields.StorePath, err = storepath.ParseBase(t.TempDir(), there.base())
		must(t, err)
		must(t, os.Mkdir(there.fields.StorePath.String(), 0o755))
		s := newServers(first, kept, there, twin, &other)
		trans, store, _ := bubbled(t, s, Options{})
		gotten(t, trans, kept)
		query(t, trans, first, missing, kept, there, twin, &other)
		gotten(t, trans, first)
		synctest.Wait()
		asked, _, _ := s.did()
		one := twin.base() // or the other, which is the same nar
		if slices.Contains(asked, other.base()) {
			one = other.base()
		}
		if want := append(bases([]*thing{kept, first, missing}), one); !sameSet(asked, want) {
			t.Errorf("asked for %q, want %q", asked, want)
		}
		if _, err := store.Get(missing.fields.StorePath.Hash); !errors.Is(err, keep.ErrNone) {
			t.Error(err)
		}
		gotten(t, trans, twin)
		gotten(t, trans, &other)
		if again, _, _ := s.did(); len(again) != len(asked) {
			t.Errorf("asked for again: %q", again)
		}
		idle(t, trans)
	})
}

// References that nobody has named are looked for, and theirs, as far as they are
// not there.
func TestAheadOfReferences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		things := chain(t, 6)
		s := newServers(things...)
		var looked []string
		known := map[string]node.Want{}
		for _, x := range things {
			known[x.base()] = x.want(t, "http://server.example")
		}
		trans, _, _ := bubbled(t, s, Options{Look: func(_ context.Context, p storepath.Path) (node.Want, error) {
			looked = append(looked, p.Base()) // one at a time, by the chain
			w, ok := known[p.Base()]
			if !ok {
				return node.Want{}, fs.ErrNotExist
			}
			return w, nil
		}})
		gotten(t, trans, things[1]) // is there by now
		delete(known, things[2].base())
		query(t, trans, things[5])
		gotten(t, trans, things[5])
		synctest.Wait()
		if want := fmt.Sprint(bases([]*thing{things[4], things[3], things[2]})); fmt.Sprint(looked) != want {
			t.Errorf("looked for %q", looked)
		}
		asked, _, _ := s.did()
		if want := bases([]*thing{things[1], things[5], things[3], things[4]}); len(asked) != 4 || !sameSet(asked, want) {
			t.Errorf("asked for %q", asked)
		}
	})
}

// A node that ends in the middle of it leaves nothing behind.
func TestAheadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		things := chain(t, 20)
		s := newServers(things...)
		trans, _, _ := bubbled(t, s, Options{})
		query(t, trans, things...)
		s.waiting(things[0])
		gotten(t, trans, things[0])
		synctest.Wait()
		must(t, trans.Close())
		if _, now, _ := s.did(); now != 0 {
			t.Errorf("%d are open", now)
		}
		query(t, trans, things...)
		if _, err := trans.Get(t.Context(), things[3].want(t, "http://server.example")); !errors.Is(err, ErrClosed) && err != nil {
			t.Errorf("after the end: %v", err)
		}
	})
}

// What peers said of a query holds for 30 seconds, however many queries come after
// it.
func TestClaimsGrowOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var things []*thing
		for k := range 8 {
			things = append(things, newThing(t, byte(k+1), 1000, "none"))
		}
		s := newServers(things...)
		trans, _, book := bubbled(t, s, Options{})
		crowd := newCrowd(t, book, "near")
		trans.o.Peers = crowd
		trans.Ahead([]node.Want{things[0].want(t, "http://server.example"), sized(t, things[1], aheadMost+1)})
		gotten(t, trans, things[0])
		for k := 2; k < len(things); k += 2 {
			after(claimsFor / 2)
			query(t, trans, things[k:k+2]...)
			gotten(t, trans, things[k])
			synctest.Wait()
		}
		before := crowd.asked.Load()
		gotten(t, trans, things[1])
		if asked := crowd.asked.Load() - before; asked != 1 {
			t.Errorf("peers were asked %d times for what they spoke of long ago", asked)
		}
	})
}
