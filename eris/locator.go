package eris

import (
	"container/list"
	"context"
	"math"
	"slices"
	"sync"
)

// locatorRefs is how many references a Locator remembers at least, once there
// are so many: some 4 MiB, and several times what a Reader asks for ahead.
const locatorRefs = 32 << 10

// Locator knows which node of a tree a reference names, for a source that has to
// know it, such as a torrent, whose pieces are numbered. It learns that from the
// internal nodes that a Fetcher brings: of those that came last, it remembers the
// references below. A Filler needs none: it has a Where of its own. A Locator is
// safe for concurrent use.
type Locator struct {
	c ReadCap

	mu     sync.Mutex
	spots  map[Ref]spot
	leaves bool                  // whether spots has those of leaves, which come in numbers: once they are asked for
	nodes  map[Ref]*list.Element // in order
	order  *list.List            // of *learnt, the one that came last at the back
	refs   int                   // in all of order
	node   []byte                // memory for one
	pairs  []pair                // the same
}

// spot is where a node stands, and how it is decrypted.
type spot struct {
	place
	key   Key
	below Ref // the node whose child it is
}

// learnt is an internal node whose children are known.
type learnt struct {
	ref      Ref
	children place // the first of them
	refs     []Ref // of children
	keys     []Key // of children that are internal nodes
}

// NewLocator returns a Locator of c's tree that knows where the root is.
func NewLocator(c ReadCap) *Locator {
	return &Locator{c: c, spots: map[Ref]spot{}, nodes: map[Ref]*list.Element{}, order: list.New()}
}

// Where returns the level and the index in the level of the node that a
// reference names; ok is false if that is not known, or not any more. A block
// that stands in several places is found in one.
func (l *Locator) Where(ref Ref) (level int, index int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.at(ref)
	if !ok && !l.leaves {
		l.leaves = true
		for e := l.order.Front(); e != nil; e = e.Next() {
			if n := e.Value.(*learnt); n.children.level == 0 {
				l.place(n)
			}
		}
		s, ok = l.at(ref)
	}
	return s.level, s.index, ok
}

func (l *Locator) at(ref Ref) (spot, bool) {
	if ref == l.c.Root {
		return spot{place: place{level: int(l.c.Level)}, key: l.c.Key}, true
	}
	s, ok := l.spots[ref]
	return s, ok
}

// Watch returns a Fetcher that asks f and learns from what comes.
func (l *Locator) Watch(f Fetcher) Fetcher { return watched{l, f} }

var _ ManyFetcher = watched{}

type watched struct {
	l *Locator
	f Fetcher
}

// Fetch implements Fetcher.
func (w watched) Fetch(ctx context.Context, size BlockSize, refs []Ref, got func(int, []byte) error) error {
	return w.FetchMany(ctx, size, refs, One(got))
}

// FetchMany implements ManyFetcher. Only a block that got has taken is looked at.
func (w watched) FetchMany(ctx context.Context, size BlockSize, refs []Ref, got GotMany) error {
	return FetchMany(ctx, w.f, size, refs, func(is []int, blocks [][]byte) (int, error) {
		n, err := got(is, blocks)
		w.l.mu.Lock()
		defer w.l.mu.Unlock()
		for k, i := range is[:n] {
			if s, ok := w.l.at(refs[i]); ok && s.level > 0 && len(blocks[k]) == int(w.l.c.Size) {
				w.l.learn(refs[i], s, blocks[k])
			}
		}
		return n, err
	})
}

// learn takes the children of an internal node. One that is malformed has none;
// who reads the tree says so.
func (l *Locator) learn(ref Ref, s spot, block []byte) {
	arity := int64(l.c.Size.Arity())
	if s.index > math.MaxInt64/arity-1 {
		return
	}
	l.node = slices.Grow(l.node[:0], len(block))[:len(block)]
	nonce := l.c.nonce(s.level)
	xor(l.node, block, &nonce, &s.key)
	var err error
	if l.pairs, err = l.c.children(ref == l.c.Root, l.node, ref, l.pairs[:0]); err != nil {
		return
	}
	if e, ok := l.nodes[ref]; ok {
		l.forget(e)
	}
	n := &learnt{ref: ref, children: place{s.level - 1, s.index * arity}, refs: make([]Ref, len(l.pairs))}
	for i, p := range l.pairs {
		n.refs[i] = p.ref
		if n.children.level > 0 {
			n.keys = append(n.keys, p.key)
		}
	}
	if n.children.level > 0 || l.leaves {
		l.place(n)
	}
	l.nodes[ref] = l.order.PushBack(n)
	l.refs += len(n.refs)
	for l.refs-len(l.order.Front().Value.(*learnt).refs) >= locatorRefs {
		l.forget(l.order.Front())
	}
}

// place makes known where a node's children are.
func (l *Locator) place(n *learnt) {
	for i, ref := range n.refs {
		s := spot{place: n.children, below: n.ref}
		s.index += int64(i)
		if len(n.keys) > 0 {
			s.key = n.keys[i]
		}
		l.spots[ref] = s
	}
}

func (l *Locator) forget(e *list.Element) {
	n := l.order.Remove(e).(*learnt)
	delete(l.nodes, n.ref)
	l.refs -= len(n.refs)
	if n.children.level == 0 && !l.leaves {
		return
	}
	for _, ref := range n.refs {
		if s, ok := l.spots[ref]; ok && s.below == n.ref {
			delete(l.spots, ref)
		}
	}
}
