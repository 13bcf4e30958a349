package eris

import (
	"errors"
	"fmt"
	"io"
)

// pathNode is an internal node that was fetched for random access.
type pathNode struct {
	index int64
	pairs []pair // nil: none was fetched
	last  bool   // no node of its level follows
}

// ReadAt decodes len(p) bytes from off on, or up to the content's end, where
// it returns io.EOF. Internal nodes on the way are kept, one a level.
func (r *Reader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("eris: read before the content's start")
	}
	length, err := r.Length()
	if err != nil {
		return 0, err
	}
	if off >= length {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), length-off)]
	for n < len(want) {
		m, err := r.readLeaves(want[n:], off+int64(n))
		if n += m; err != nil {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readLeaves fetches some leaves under one parent and copies what p wants.
func (r *Reader) readLeaves(p []byte, off int64) (int, error) {
	size := int64(r.c.Size)
	leaf := off / size
	wanted := (off+int64(len(p))-1)/size - leaf + 1
	pairs, err := r.leafPairs(leaf, min(wanted, int64(r.o.Batch)))
	if err != nil {
		return 0, err
	}
	nodes, err := r.fetch(0, leaf, pairs)
	if err != nil {
		return 0, err
	}
	return copy(p, nodes[off%size:]), nil
}

// leafPairs returns the pairs of at most max leaves from the given one on.
func (r *Reader) leafPairs(leaf, max int64) ([]pair, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.childPairs(0, leaf, max)
}

// childPairs returns the pairs of at most max nodes of a level from the given
// one on, those that have one parent. The caller holds r.mu and copies.
func (r *Reader) childPairs(level int, index, max int64) ([]pair, error) {
	if level == int(r.c.Level) {
		return []pair{{r.c.Root, r.c.Key}}, nil
	}
	arity := int64(r.c.Size.Arity())
	parent, err := r.pathNode(level+1, index/arity)
	if err != nil {
		return nil, err
	}
	i := index % arity
	if i >= int64(len(parent.pairs)) {
		return nil, &CorruptError{r.c.Root, fmt.Sprintf("tree has no node %d of level %d", index, level)}
	}
	end := min(i+max, int64(len(parent.pairs)))
	return append([]pair(nil), parent.pairs[i:end]...), nil
}

// pathNode returns an internal node, the one kept for its level or a new one.
func (r *Reader) pathNode(level int, index int64) (*pathNode, error) {
	n := &r.path[level]
	if n.pairs != nil && n.index == index {
		return n, nil
	}
	root := level == int(r.c.Level)
	p, err := r.childPairs(level, index, 1)
	if err != nil {
		return nil, err
	}
	last := root
	if !root {
		parent := &r.path[level+1]
		last = parent.last && index%int64(r.c.Size.Arity()) == int64(len(parent.pairs))-1
	}
	node, err := r.fetch(level, index, p)
	if err != nil {
		return nil, err
	}
	pairs, err := r.c.children(root, node, p[0].ref, nil)
	if err != nil {
		return nil, err
	}
	if !last && len(pairs) < r.c.Size.Arity() {
		return nil, notFull(p[0].ref)
	}
	*n = pathNode{index: index, pairs: pairs, last: last}
	return n, nil
}

// fetch returns the plaintext of nodes of one level, one after another.
func (r *Reader) fetch(level int, first int64, pairs []pair) ([]byte, error) {
	b := newBatch()
	b.level, b.first, b.pairs = level, first, pairs
	b.nodes = make([]byte, len(pairs)*int(r.c.Size))
	b.fetch(r.ctx, r.f, r.c)
	return b.nodes, b.err
}

// Length returns the content's length in bytes. The first call fetches the
// last node of each level.
func (r *Reader) Length() (int64, error) {
	if err := r.unusable(); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.length >= 0 {
		return r.length, nil
	}
	last := int64(0) // index of the last node of a level
	for level := int(r.c.Level); level > 0; level-- {
		n, err := r.pathNode(level, last)
		if err != nil {
			return 0, err
		}
		last = last*int64(r.c.Size.Arity()) + int64(len(n.pairs)) - 1
		if last > r.c.lastNode(level-1, r.o.MaxLength) {
			return 0, tooLong(r.o.MaxLength)
		}
	}
	p, err := r.childPairs(0, last, 1)
	if err != nil {
		return 0, err
	}
	leaf, err := r.fetch(0, last, p)
	if err != nil {
		return 0, err
	}
	n, err := unpad(leaf, p[0].ref)
	if err != nil {
		return 0, err
	}
	length := last*int64(r.c.Size) + int64(n)
	if length > r.o.MaxLength {
		return 0, tooLong(r.o.MaxLength)
	}
	r.length = length
	return length, nil
}
