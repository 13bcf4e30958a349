package eris

import (
	"context"
	"errors"
	"sync"
)

// parsePairs returns the pairs of an internal node (section
// "Decode-Internal-Node"): up to the first null reference, after which all
// must be zero. A node without pairs is refused.
func parsePairs(node []byte, ref Ref, dst []pair) ([]pair, error) {
	for off := 0; off < len(node); off += pairSize {
		p := pair{Ref(node[off:]), Key(node[off+32:])}
		if same(&p.ref, &Ref{}) {
			for _, c := range node[off:] {
				if c != 0 {
					return nil, &CorruptError{ref, "internal node has bytes after its last pair"}
				}
			}
			break
		}
		dst = append(dst, p)
	}
	if len(dst) == 0 {
		return nil, &CorruptError{ref, "internal node without pairs"}
	}
	return dst, nil
}

func notFull(ref Ref) error {
	return &CorruptError{ref, "internal node is neither full nor the last of its level"}
}

// unpad returns the length of the content in the last leaf (section
// "Padding"): without the trailing zeros and the one 0x80 before them.
func unpad(node []byte, ref Ref) (int, error) {
	for n := len(node) - 1; n >= 0; n-- {
		switch node[n] {
		case 0:
		case 0x80:
			return n, nil
		default:
			return 0, &CorruptError{ref, "last leaf ends in neither padding nor zeros"}
		}
	}
	return 0, &CorruptError{ref, "last leaf has no padding"}
}

// checkRoot is the rule "Verify-Key" of the specification for the root node of
// a tree with internal nodes. A leaf's key cannot be checked without the
// convergence secret.
func (c ReadCap) checkRoot(node []byte) error {
	if c.Level > 0 && !c.legacy && Key(BlockRef(node)) != c.Key {
		return &CorruptError{c.Root, "root node does not match its key"}
	}
	return nil
}

// children returns the pairs of an internal node after all checks that need
// nothing else of the tree: the root's key, the order of pairs and their
// number. Whether a node had to be full is for who knows its place.
func (c ReadCap) children(root bool, node []byte, ref Ref, dst []pair) ([]pair, error) {
	if root {
		if err := c.checkRoot(node); err != nil {
			return nil, err
		}
	}
	pairs, err := parsePairs(node, ref, dst)
	if err == nil && root && len(pairs) == 1 {
		return nil, &CorruptError{ref, "root node has one pair only"}
	}
	return pairs, err
}

// nonce returns the nonce of a level's nodes.
func (c ReadCap) nonce(level int) nonce {
	if c.legacy {
		level = 0
	}
	return levelNonce(level)
}

// stage fetches the nodes of one level in order, several batches ahead of who
// reads them. A tree of level n is read by n+1 stages, each fed with pairs by
// the one above, which makes the order of requests breadth-first within what
// the stages may hold.
type stage struct {
	c     ReadCap
	f     Fetcher
	level int
	size  int   // nodes in the next batch, at most
	most  int   // what that grows to
	next  int64 // index of the next node
	limit int64 // index of the last node that a content within bounds can have
	bound int64 // on the content's length

	above *stage // nil for the root's stage
	out   chan *batch
	free  chan *batch // that are not in use; nil stands for one that was not made yet
	idle  chan *batch // for who has fetched one and waits for the next

	// Of the batch of the stage above that is being taken apart.
	parent *batch
	node   int    // node in parent
	pairs  []pair // of that node, not yet asked for
	all    []pair // memory for pairs
	full   bool   // whether that node had all its pairs
}

// maxInner is how many inner nodes are asked for together at most, unless the leaves
// below them come in still larger batches.
const maxInner = 64

// newStages returns the stages of a tree, the root's first, that begin at the
// given leaf.
func newStages(c ReadCap, f Fetcher, o ReaderOptions, leaf int64) []*stage {
	stages := make([]*stage, 0, int(c.Level)+1)
	var above *stage
	size, ahead := o.Batch, o.Ahead
	// Per level: nodes in the first batch, in later ones, and batches. The first
	// nodes of a level come soon; later ones do not cost a request each.
	sizes := make([][3]int, int(c.Level)+1)
	for level := range sizes {
		most := size
		if level > 0 {
			most = max(size, min(o.Batch, maxInner, ahead/2))
		}
		sizes[level] = [3]int{size, most, max(ahead/most, 2)}
		arity := c.Size.Arity()
		size = (size + arity - 1) / arity
		ahead = 2 * ((ahead + arity - 1) / arity)
	}
	for level := int(c.Level); level >= 0; level-- {
		s := &stage{
			c: c, f: f, level: level, size: sizes[level][0], most: sizes[level][1],
			next:  leaf / (nodeSpan(c.Size, level) / int64(c.Size)),
			limit: c.lastNode(level, o.MaxLength), bound: o.MaxLength,
			above: above, out: make(chan *batch, sizes[level][2]),
			free: make(chan *batch, sizes[level][2]+1), idle: make(chan *batch),
		}
		if above == nil {
			s.size, s.most, s.next = 1, 1, 0
		}
		for range cap(s.free) {
			s.free <- nil
		}
		stages = append(stages, s)
		above = s
	}
	return stages
}

// run makes batches until the level ends, an error, or ctx ends. It returns
// when everything that it started has.
func (s *stage) run(ctx context.Context) {
	var fetches sync.WaitGroup
	defer fetches.Wait()
	defer close(s.idle)
	defer close(s.out)
	if s.above == nil {
		if b := s.newBatch(ctx); b != nil {
			b.pairs = append(b.pairs, pair{s.c.Root, s.c.Key})
			s.start(ctx, b, &fetches)
		}
		return
	}
	// The first node of the stage above need not be the first child's parent
	// from its first pair on.
	skip := int(s.next % int64(s.c.Size.Arity()))
	for {
		b := s.newBatch(ctx)
		if b == nil {
			return
		}
		more, err := s.gather(b, &skip)
		if err != nil {
			// The nodes before a fault are still good.
			if len(b.pairs) > 0 && !errors.Is(err, ErrTooLong) {
				if !s.start(ctx, b, &fetches) {
					return
				}
				b = newBatch()
			}
			b.err = err
			b.done <- struct{}{}
			s.send(ctx, b)
			return
		}
		if len(b.pairs) > 0 && !s.start(ctx, b, &fetches) || !more {
			return
		}
	}
}

// newBatch waits for room; it returns nil if ctx has ended.
func (s *stage) newBatch(ctx context.Context) *batch {
	select {
	case b := <-s.free:
		if b == nil {
			b = newBatch()
		}
		b.level, b.first, b.pairs = s.level, s.next, b.pairs[:0]
		return b
	case <-ctx.Done():
		return nil
	}
}

// start begins to fetch a batch and hands it on. It reports whether it could:
// once a batch was left out, none may follow.
func (s *stage) start(ctx context.Context, b *batch, fetches *sync.WaitGroup) bool {
	n := len(b.pairs) * int(s.c.Size)
	if cap(b.nodes) < n {
		b.nodes = make([]byte, n)
	}
	b.nodes = b.nodes[:n]
	s.next += int64(len(b.pairs))
	s.size = min(2*s.size, s.most)
	select {
	case s.idle <- b:
	default:
		// A goroutine does one batch after another, as its stack has grown for that.
		fetches.Go(func() {
			for b, ok := b, true; ok; b, ok = <-s.idle {
				b.fetch(ctx, s.f, s.c)
			}
		})
	}
	return s.send(ctx, b)
}

func (s *stage) send(ctx context.Context, b *batch) bool {
	select {
	case s.out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

// release gives a batch that was read back to its stage.
func (s *stage) release(b *batch) { s.free <- b }

// gather adds pairs to b until it is full, or until the next would have to be
// waited for. more is false at the level's end.
func (s *stage) gather(b *batch, skip *int) (more bool, err error) {
	for len(b.pairs) < s.size {
		if len(s.pairs) == 0 {
			if len(b.pairs) > 0 && !s.ready() {
				return true, nil
			}
			if more, err := s.nextNode(); err != nil || !more {
				return false, err
			}
			if *skip >= len(s.pairs) {
				return false, &CorruptError{s.parent.pairs[s.node].ref, "internal node has too few pairs"}
			}
			s.pairs = s.pairs[*skip:]
			*skip = 0
		}
		n := min(len(s.pairs), s.size-len(b.pairs))
		b.pairs = append(b.pairs, s.pairs[:n]...)
		s.pairs = s.pairs[n:]
	}
	return true, nil
}

// ready reports whether nextNode would not have to wait.
func (s *stage) ready() bool {
	if s.parent != nil && s.node+1 < len(s.parent.pairs) {
		return true
	}
	return len(s.above.out) > 0
}

// nextNode takes the next node of the stage above apart. more is false when
// there is none.
func (s *stage) nextNode() (more bool, err error) {
	first := s.parent == nil
	if !first && s.node+1 < len(s.parent.pairs) {
		s.node++
	} else {
		if !first {
			s.above.release(s.parent)
			s.parent = nil
		}
		b, ok := <-s.above.out
		if !ok {
			return false, nil
		}
		<-b.done
		if b.err != nil {
			return false, b.err
		}
		s.parent, s.node = b, 0
	}
	ref := s.parent.pairs[s.node].ref
	if !first && !s.full {
		return false, &CorruptError{ref, "follows an internal node that is not full"}
	}
	node := s.parent.nodes[s.node*int(s.c.Size):][:s.c.Size]
	if s.all, err = s.c.children(s.above.above == nil, node, ref, s.all[:0]); err != nil {
		return false, err
	}
	arity := s.c.Size.Arity()
	if (s.parent.first+int64(s.node))*int64(arity)+int64(len(s.all))-1 > s.limit {
		return false, tooLong(s.bound)
	}
	s.pairs = s.all
	s.full = len(s.all) == arity
	return true, nil
}
