package transfer

import (
	"container/list"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"ersatz/internal/node"
	"ersatz/internal/peers"
	"ersatz/storepath"
)

// Bounds of look-ahead (docs/node.md, "Look-ahead").
const (
	// aheadAtOnce is how many items are fetched ahead at a time, and aheadBytes
	// how many compressed bytes ahead of what was asked for. Of items larger than
	// aheadMost the line is what takes time, and who waits needs it.
	aheadAtOnce = 8
	aheadBytes  = 64 << 20
	aheadMost   = 4 << 20

	// aheadFor is for how long what was fetched ahead counts as that.
	aheadFor = 10 * time.Minute

	// claimsFor is for how long what peers said of a whole set holds.
	claimsFor = 30 * time.Second

	// joinFor is how soon after a query another one counts as a part of it: stock
	// clients ask for narinfos one by one, and guix-daemon for paths.
	joinFor = time.Second

	maxSets   = 16       // sets that are remembered, the last ones
	maxWants  = 1 << 14  // items in all of them, and in the queue
	maxTexts  = 64 << 20 // bytes of the narinfos of these
	maxLooked = 1 << 12  // references that are looked for because of one item
)

// ahead is what may be asked for soon. It is under Transfers.mu.
type ahead struct {
	sets    []*set    // the last one last
	asked   node.Want // the last that somebody asked for
	askedAt time.Time
	queue   list.List // of node.Want: what is to be fetched ahead, in order
	queued  map[storepath.Path]*list.Element
	texts   int // bytes of narinfos in the queue
	out     map[[32]byte]outstanding
	bytes   int64 // of all in out
	running int

	said map[[32]byte]said // of what was queued of late, asked for in one go
}

// said is what peers said of a nar.
type said struct {
	claims []peers.Claim
	until  time.Time // it holds
}

// set is a query, or several that came without a pause.
type set struct {
	wants []node.Want
	index map[string]int // by the last component of the store path
	texts int            // bytes of narinfos
	last  time.Time      // when the last of them came
}

// add adds an item that can be fetched, once. What is too much is left out.
func (s *set) add(w node.Want) {
	if len(w.Choice.Builds) == 0 || !w.Choice.Builds[0].Signed.HasNarSize || s.texts+texts(w) > maxTexts {
		return
	}
	if _, twice := s.index[w.Path.Base()]; !twice {
		s.index[w.Path.Base()] = len(s.wants)
		s.wants = append(s.wants, w)
		s.texts += texts(w)
	}
}

// texts returns how many bytes the narinfos of an item have.
func texts(w node.Want) (n int) {
	for _, b := range w.Choice.Builds {
		for _, a := range b.Narinfos {
			n += len(a.Text)
		}
	}
	return n
}

// Ahead implements node.Transfers.
func (t *Transfers) Ahead(wants []node.Want) {
	if len(wants) == 0 {
		return
	}
	wants = wants[:min(len(wants), maxWants)]
	t.mu.Lock()
	defer t.mu.Unlock()
	a, now := &t.ahead, t.o.Now()
	s := a.latest()
	if s == nil || now.Sub(s.last) >= joinFor || len(s.wants)+len(wants) > maxWants {
		s = &set{index: map[string]int{}}
		a.sets = append(a.sets, s)
	}
	s.last = now
	for _, w := range wants {
		s.add(w)
	}
	// Who queries and who asks are two processes: asking may be faster.
	if _, of := s.index[a.asked.Path.Base()]; of && now.Sub(a.askedAt) < joinFor {
		t.start(a.asked, false)
		return
	}
	wanted, size := 0, 0
	for k, s := range slices.Backward(a.sets) {
		wanted, size = wanted+len(s.wants), size+s.texts
		if wanted > maxWants || size > maxTexts || len(a.sets)-k > maxSets {
			a.sets = slices.Delete(a.sets, 0, k+1)
			break
		}
	}
}

// latest returns the last set, nil if there is none.
func (a *ahead) latest() *set {
	if len(a.sets) == 0 {
		return nil
	}
	return a.sets[len(a.sets)-1]
}

// asked notes that somebody asks for an item: what else was queried with it is
// fetched ahead from now on.
func (t *Transfers) asked(w node.Want) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.used(w)
	t.ahead.asked, t.ahead.askedAt = w, t.o.Now()
	t.start(w, out)
}

// given notes that somebody who has asked for an item gets it: it may have been
// taken up to be fetched ahead in between.
func (t *Transfers) given(w node.Want) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used(w)
}

// used notes that an item is not ahead of what was asked for, and reports whether it
// was. The caller has t.mu.
func (t *Transfers) used(w node.Want) bool {
	out := t.ahead.settle(w.Choice.Builds[0].Signed.NarHash)
	if out {
		t.o.Count.AheadUsed()
	}
	return out
}

// start has what was queried together with an item fetched ahead, and what it
// refers to if its set has begun before. The caller has t.mu.
func (t *Transfers) start(w node.Want, before bool) {
	a := &t.ahead
	var begun []node.Want
	a.sets = slices.DeleteFunc(a.sets, func(s *set) bool {
		_, of := s.index[w.Path.Base()]
		if of {
			begun = append(begun, s.order()...)
		}
		return of
	})
	wanted := before || len(begun) > 0
	begun = slices.DeleteFunc(begun, func(o node.Want) bool { return o.Path == w.Path })
	if t.ctx.Err() == nil && wanted {
		t.work.Go(func() {
			t.enqueue(begun, false)
			t.pump()
			t.enqueue(t.missing(append(begun, w)), true)
			t.pump()
		})
	}
}

// missing returns the references of items that are not there, and theirs, as far
// as nobody has asked for them: references first.
func (t *Transfers) missing(wants []node.Want) []node.Want {
	if t.o.Look == nil {
		return nil
	}
	known := map[storepath.Path]bool{}
	for _, w := range wants {
		known[w.Path] = true
	}
	found := &set{index: map[string]int{}}
	left := maxLooked     // who makes narinfos up has no end of references
	var size atomic.Int64 // bytes of the narinfos that are found
	for len(wants) > 0 && left > 0 && t.ctx.Err() == nil {
		var next []storepath.Path
		for _, w := range wants {
			for _, base := range w.Choice.Builds[0].Signed.References {
				p, err := storepath.ParseBase(w.Path.Dir, base)
				if err != nil || known[p] || left == 0 {
					continue
				}
				known[p] = true
				if _, err := t.store.Get(p.Hash); err != nil && !isThere(p) {
					next = append(next, p)
					left--
				}
			}
		}
		wants = t.look(next, &size)
		for _, w := range wants {
			found.add(w)
		}
	}
	return found.order()
}

// look finds items, those that can be had, until there are too many bytes of
// narinfos.
func (t *Transfers) look(paths []storepath.Path, size *atomic.Int64) []node.Want {
	all := make([]node.Want, len(paths))
	group := errgroup.Group{}
	group.SetLimit(aheadAtOnce)
	for k, p := range paths {
		group.Go(func() error {
			if size.Load() > maxTexts {
				return nil
			}
			w, err := t.o.Look(t.ctx, p)
			if err == nil && size.Add(int64(texts(w))) <= maxTexts {
				all[k] = w
			}
			return nil // it may not be needed
		})
	}
	group.Wait()
	return slices.DeleteFunc(all, func(w node.Want) bool { return len(w.Choice.Builds) == 0 })
}

// order returns the items of a set in the order in which the daemon installs
// them: references first.
func (s *set) order() []node.Want {
	order := make([]node.Want, 0, len(s.wants))
	state := make([]bool, len(s.wants)) // visited
	type frame struct{ item, next int }
	for root := range s.wants {
		stack := []frame{{root, 0}}
		if state[root] {
			continue
		}
		state[root] = true
		for len(stack) > 0 {
			f := &stack[len(stack)-1]
			refs := s.wants[f.item].Choice.Builds[0].Signed.References
			if f.next == len(refs) {
				order = append(order, s.wants[f.item])
				stack = stack[:len(stack)-1]
				continue
			}
			k, ok := s.index[refs[f.next]]
			f.next++
			if ok && !state[k] {
				state[k] = true
				stack = append(stack, frame{k, 0})
			}
		}
	}
	return order
}
