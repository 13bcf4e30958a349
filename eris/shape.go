package eris

// Shape says how many nodes the tree of a content has on which level ("Encode",
// "Collect Reference-Key Pairs in Nodes"). Nodes are numbered leaves first, then
// level by level, each from the left; the root comes last. This order follows
// from the content's length alone. The zero Shape has no nodes.
type Shape struct {
	size   BlockSize
	firsts []int64 // number of the first node of each level
	nodes  int64   // in all
}

// NewShape returns the shape of a content of that many bytes; below zero, the
// zero Shape.
func NewShape(size BlockSize, length int64) Shape {
	if length < 0 {
		return Shape{size: size}
	}
	return shapeOf(size, length/int64(size)+1) // at least one byte is padding
}

func shapeOf(size BlockSize, leaves int64) Shape {
	s := Shape{size: size}
	for n, arity := leaves, int64(size.Arity()); ; n = (n + arity - 1) / arity {
		s.firsts = append(s.firsts, s.nodes)
		s.nodes += n
		if n == 1 {
			return s
		}
	}
}

// ShapeOfNodes returns the shape of a tree with that many nodes in all; ok is
// false if no tree has so many.
func ShapeOfNodes(size BlockSize, nodes int64) (s Shape, ok bool) {
	low, high := int64(1), nodes // the number of leaves, if there is one, is in [low, high]
	for low <= high {
		leaves := low + (high-low)/2
		switch s = shapeOf(size, leaves); {
		case s.nodes == nodes:
			return s, true
		case s.nodes < nodes:
			low = leaves + 1
		default:
			high = leaves - 1
		}
	}
	return Shape{}, false
}

// Size returns the size of the blocks.
func (s Shape) Size() BlockSize { return s.size }

// Nodes returns how many nodes there are.
func (s Shape) Nodes() int64 { return s.nodes }

// Level returns the root's level; -1 if there are no nodes.
func (s Shape) Level() int { return len(s.firsts) - 1 }

// First returns the number of the first node of a level that there is.
func (s Shape) First(level int) int64 { return s.firsts[level] }

// Leaves returns how many leaves there are.
func (s Shape) Leaves() int64 { return s.Width(0) }

// Width returns how many nodes a level has: 0 if there is no such level.
func (s Shape) Width(level int) int64 {
	switch {
	case level < 0 || level > s.Level():
		return 0
	case level == s.Level():
		return 1
	}
	return s.firsts[level+1] - s.firsts[level]
}

// Locate returns the level of a node and its place in the level, both from 0.
func (s Shape) Locate(node int64) (level int, index int64) {
	level = s.Level()
	for s.firsts[level] > node {
		level--
	}
	return level, node - s.firsts[level]
}

// Number returns the number of a node; ok is false if there is no such node.
func (s Shape) Number(level int, index int64) (node int64, ok bool) {
	if index < 0 || index >= s.Width(level) {
		return 0, false
	}
	return s.firsts[level] + index, true
}

// Children returns the numbers [from, to) of the nodes below an internal one.
func (s Shape) Children(level int, index int64) (from, to int64) {
	arity := int64(s.size.Arity())
	from = s.firsts[level-1] + index*arity
	return from, min(from+arity, s.firsts[level])
}
