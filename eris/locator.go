package eris

import (
	"container/list"
	"context"
	"math"
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

	mu    sync.Mutex
	spots map[Ref]spot
	nodes map[Ref]*list.Element // in order
	order *list.List            // of *learnt, the one that came last at the back
	refs  int                   // in all of order
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
	children []Ref
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

// Fetch implements Fetcher. Only a block that got has taken is looked at.
func (w watched) Fetch(ctx context.Context, size BlockSize, refs []Ref, got func(int, []byte) error) error {
	return w.f.Fetch(ctx, size, refs, func(i int, block []byte) error {
		err := got(i, block)
		if err == nil {
			w.l.learn(refs[i], block)
		}
		return err
	})
}

// FetchMany implements ManyFetcher, as Fetch does.
func (w watched) FetchMany(ctx context.Context, size BlockSize, refs []Ref, got GotMany) error {
	return FetchMany(ctx, w.f, size, refs, func(is []int, blocks [][]byte) (int, error) {
		n, err := got(is, blocks)
		for k, i := range is[:n] {
			w.l.learn(refs[i], blocks[k])
		}
		return n, err
	})
}

// learn takes the children of an internal node. One that is malformed has none;
// who reads the tree says so.
func (l *Locator) learn(ref Ref, block []byte) {
	l.mu.Lock()
	s, ok := l.at(ref)
	l.mu.Unlock()
	arity := int64(l.c.Size.Arity())
	if !ok || s.level == 0 || len(block) != int(l.c.Size) || s.index > math.MaxInt64/arity-1 {
		return
	}
	node := make([]byte, len(block))
	nonce := l.c.nonce(s.level)
	xor(node, block, &nonce, &s.key)
	pairs, err := l.c.children(ref == l.c.Root, node, ref, nil)
	if err != nil {
		return
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.nodes[ref]; ok {
		l.forget(e)
	}
	n := &learnt{ref, make([]Ref, 0, len(pairs))}
	for i, p := range pairs {
		n.children = append(n.children, p.ref)
		l.spots[p.ref] = spot{place{s.level - 1, s.index*arity + int64(i)}, p.key, ref}
	}
	l.nodes[ref] = l.order.PushBack(n)
	l.refs += len(n.children)
	for l.refs-len(l.order.Front().Value.(*learnt).children) >= locatorRefs {
		l.forget(l.order.Front())
	}
}

func (l *Locator) forget(e *list.Element) {
	n := l.order.Remove(e).(*learnt)
	delete(l.nodes, n.ref)
	l.refs -= len(n.children)
	for _, ref := range n.children {
		if l.spots[ref].below == n.ref {
			delete(l.spots, ref)
		}
	}
}
