package eris

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
)

// row is what a Filler knows of a level.
type row struct {
	groups []group // by parent; empty where that was not read
	count  int64   // nodes that the level has; -1 while that is not known
}

// group is the children of one node.
type group struct {
	pairs  []pair
	states []nodeState
}

type nodeState uint8

const (
	nodeOpen nodeState = iota
	nodeBusy           // somebody checks and stores it
	nodeDone
)

// place is where a node stands.
type place struct {
	level int
	index int64
}

// run is a run of nodes of one level.
type run struct {
	level      int
	first, end int64
}

func newRows(c ReadCap) []row {
	rows := make([]row, int(c.Level)+1)
	for i := range rows {
		rows[i].count = -1
	}
	top := &rows[c.Level]
	top.count = 1
	top.groups = []group{{[]pair{{c.Root, c.Key}}, make([]nodeState, 1)}}
	return rows
}

// isZero reports whether all bytes of a node are zero.
func isZero(node []byte) bool { return node[0] == 0 && bytes.Equal(node[1:], node[:len(node)-1]) }

// at returns a node's pair and its state, nil if they are not known. The
// caller has f.mu.
func (f *Filler) at(level int, index int64) (pair, *nodeState) {
	arity := int64(f.c.Size.Arity())
	r := &f.rows[level]
	if index/arity >= int64(len(r.groups)) {
		return pair{}, nil
	}
	g := &r.groups[index/arity]
	if index%arity >= int64(len(g.pairs)) {
		return pair{}, nil
	}
	return g.pairs[index%arity], &g.states[index%arity]
}

// plan makes all that is known and not done ready.
func (f *Filler) plan() {
	f.ready = f.ready[:0]
	for level := len(f.rows) - 1; level >= 0; level-- {
		for i, g := range f.rows[level].groups {
			if len(g.pairs) > 0 {
				f.addRun(level, int64(i), len(g.pairs))
			}
		}
	}
}

// addRun makes the n children of a parent ready.
func (f *Filler) addRun(level int, parent int64, n int) {
	first := parent * int64(f.c.Size.Arity())
	f.add(run{level, first, first + int64(n)})
}

func (f *Filler) add(r run) {
	i, _ := slices.BinarySearchFunc(f.ready, r, func(a, b run) int {
		return cmp.Or(cmp.Compare(b.level, a.level), cmp.Compare(a.first, b.first))
	})
	f.ready = slices.Insert(f.ready, i, r)
	f.changed.Signal()
}

// pick takes what is to be asked for next.
func (f *Filler) pick() (w want) {
	for len(f.ready) > 0 && len(w.pairs) < f.o.Batch {
		r := &f.ready[0]
		if len(w.pairs) > 0 && r.level != w.level {
			break
		}
		w.level = r.level
		n := min(int(r.end-r.first), f.o.Batch-len(w.pairs))
		w.index, w.pairs = slices.Grow(w.index, n), slices.Grow(w.pairs, n)
		for ; r.first < r.end && len(w.pairs) < f.o.Batch; r.first++ {
			if p, state := f.at(r.level, r.first); *state == nodeOpen {
				w.index, w.pairs = append(w.index, r.first), append(w.pairs, p)
			}
		}
		if r.first == r.end {
			f.ready = f.ready[1:]
		}
	}
	return w
}

// firstOpen returns the first node that is known and not done.
func (f *Filler) firstOpen() (Ref, bool) {
	for level := len(f.rows) - 1; level >= 0; level-- {
		for _, g := range f.rows[level].groups {
			if i := slices.IndexFunc(g.states, func(s nodeState) bool { return s != nodeDone }); i >= 0 {
				return g.pairs[i].ref, true
			}
		}
	}
	return Ref{}, false
}

// has reports whether all of b is done.
func (f *Filler) has(b want) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !slices.ContainsFunc(b.index, func(i int64) bool {
		_, state := f.at(b.level, i)
		return *state != nodeDone
	})
}

// claim takes the right to store a node. last is whether none of its level
// follows: if it is, its parent was the last too, and so the level's end is
// known.
func (f *Filler) claim(level int, index int64) (last, claimed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, state := f.at(level, index); *state == nodeOpen {
		*state, claimed = nodeBusy, true
		f.busy++
	}
	return index == f.rows[level].count-1, claimed
}

// release gives the right up; a Run tries again.
func (f *Filler) release(level int, index int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, state := f.at(level, index)
	*state = nodeOpen
	f.busy--
	f.add(run{level, index, index + 1})
}

// idle reports whether nobody is at work on a node. The caller has f.mu.
func (f *Filler) idle() bool { return f.active == 0 && f.busy == 0 }

// settle counts a node as done and takes in what it says of the tree.
func (f *Filler) settle(level int, index int64, last bool, pairs []pair, length int64) {
	if level == 1 {
		f.unknown.Lock()
		defer f.unknown.Unlock()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, state := f.at(level, index)
	*state = nodeDone
	if f.busy--; f.idle() {
		f.changed.Signal()
	}
	switch {
	case level == 0:
		delete(f.unsure, index)
		f.length = max(f.length, length)
		return
	case last:
		f.rows[level-1].count = index*int64(f.c.Size.Arity()) + int64(len(pairs))
	}
	below := &f.rows[level-1]
	if grow := int(index) + 1 - len(below.groups); grow > 0 {
		below.groups = append(below.groups, make([]group, grow)...)
	}
	below.groups[index] = group{pairs, make([]nodeState, len(pairs))}
	f.addRun(level-1, index, len(pairs))
}

// giveUp says that the tree breaks its rules.
func (f *Filler) giveUp(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken == nil {
		f.broken = err
	}
}

// Err returns why nothing more is to be had of this tree, whatever the source:
// an error that matches ErrCorrupt or ErrTooLong, or nil.
func (f *Filler) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken
}

// leaf returns the pair of a leaf if it is known. It refuses one that the
// content cannot have.
func (f *Filler) leaf(index int64) (pair, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return pair{}, false, f.broken
	}
	if count := f.rows[0].count; index < 0 || index > f.c.lastNode(0, f.o.MaxLength) || count >= 0 && index >= count {
		return pair{}, false, tooLong(f.o.MaxLength)
	}
	p, state := f.at(0, index)
	return p, state != nil, nil
}

// surely notes that leaves which may have been stored unverified are to be fetched.
func (f *Filler) surely(index []int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range index {
		delete(f.unsure, i)
	}
}

// note makes Where know what is asked for.
func (f *Filler) note(a *asked) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, a)
}

func (f *Filler) forget(a *asked) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = slices.DeleteFunc(f.asked, func(o *asked) bool { return o == a })
}

// Where returns the level and index of a block that Run asks its source for at
// the moment, for one that must know which of several peers has it. A block
// that stands in several places is found in one.
func (f *Filler) Where(ref Ref) (level int, index int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.asked {
		if i, ok := a.where(a.pairs, ref); ok {
			return a.level, a.index[i], true
		}
	}
	return 0, 0, false
}

// Span is a run of leaves that are not there.
type Span struct {
	First, End int64 // indices; End is the one after the last, -1 if that is not known
	Known      bool  // whether their references are known, so that PutLeaf can verify them
}

// Missing returns the leaves that are not there, as far as is known, in order.
// What Nodes has and no Run has come upon counts as missing. While the length is
// not known, the last span has no end.
func (f *Filler) Missing() []Span {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rows == nil {
		return nil
	}
	var spans []Span
	add := func(first, end int64, known bool) {
		if n := len(spans); n > 0 && spans[n-1].End == first && spans[n-1].Known == known {
			spans[n-1].End = end
		} else {
			spans = append(spans, Span{first, end, known})
		}
	}
	end := f.rows[0].count
	if end < 0 {
		end = int64(len(f.rows[0].groups) * f.c.Size.Arity())
		for i := range f.unsure {
			end = max(end, i+1)
		}
	}
	for i := range end {
		_, state := f.at(0, i)
		if f.unsure[i] || state != nil && *state == nodeDone {
			continue
		}
		add(i, i+1, state != nil)
	}
	if f.rows[0].count < 0 {
		add(end, -1, false)
	}
	return spans
}

// errUnfilled means that the tree is asked for before it is there.
var errUnfilled = errors.New("eris: tree is not complete")

// Tree emits all nodes in the order of an Encoder, without Data and Node. It
// fails unless Run has returned the content's length.
func (f *Filler) Tree(emit func(Block) error) error {
	f.mu.Lock()
	_, open := f.firstOpen()
	whole := f.broken == nil && !open
	f.mu.Unlock()
	if !whole {
		return errUnfilled
	}
	// From here on, nothing changes any more.
	arity := int64(f.c.Size.Arity())
	node := func(level int, index int64) error {
		p, _ := f.at(level, index)
		return emit(Block{Ref: p.ref, Key: p.key, Level: level, Index: index})
	}
	for i := range f.rows[0].count {
		if err := node(0, i); err != nil {
			return err
		}
		// A node comes when there is one child too many for it.
		for level, k := 1, i; k > 0 && k%arity == 0; level++ {
			k = k/arity - 1
			if err := node(level, k); err != nil {
				return err
			}
		}
	}
	for level := 1; level < len(f.rows); level++ {
		if err := node(level, f.rows[level].count-1); err != nil {
			return err
		}
	}
	return nil
}
