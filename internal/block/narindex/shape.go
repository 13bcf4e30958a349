package narindex

import "ersatz/eris"

// shape is the tree of a content: how many nodes, and which number each has.
// Nodes are numbered leaves first, then level by level, each from the left;
// the root comes last.
type shape struct {
	size   eris.BlockSize
	length int64   // of the content in bytes
	firsts []int64 // number of the first node of each level
	nodes  int64   // in all
}

// newShape returns the shape of a content. A length below zero has none: the
// result has no nodes.
func newShape(size eris.BlockSize, length int64) shape {
	s := shape{size: size, length: length}
	if length < 0 {
		return s
	}
	n := length/int64(size) + 1 // at least one byte is padding
	for {
		s.firsts = append(s.firsts, s.nodes)
		s.nodes += n
		if n == 1 {
			return s
		}
		arity := int64(size.Arity())
		n = (n + arity - 1) / arity
	}
}

// level returns the root's level.
func (s shape) level() int { return len(s.firsts) - 1 }

// locate returns a node's level, and its place in the level.
func (s shape) locate(node int64) (level int, index int64) {
	level = s.level()
	for s.firsts[level] > node {
		level--
	}
	return level, node - s.firsts[level]
}

// children returns the numbers [from, to) of the nodes below an internal one.
func (s shape) children(level int, index int64) (from, to int64) {
	arity := int64(s.size.Arity())
	from = s.firsts[level-1] + index*arity
	return from, min(from+arity, s.firsts[level])
}
