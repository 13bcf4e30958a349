package eris

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Nodes is where a Filler keeps the nodes of a tree. Its methods are called
// from several goroutines at once; those of one node never are for different
// bytes at the same time, once its reference is known.
type Nodes interface {
	// Load reads what stands at a node's place into buf, one block size long,
	// and reports whether anything does. It is not trusted.
	Load(level int, index int64, buf []byte) (bool, error)
	// Store keeps a node, one block size long: the content of a leaf with its
	// padding, the pairs of an internal node. It does not keep the slice.
	Store(level int, index int64, node []byte) error
	// Done says that what Load gave, or Store was given, is right.
	Done(level int, index int64, ref Ref, key Key)
}

// FillOptions are the limits of a Filler. The zero value works.
type FillOptions struct {
	// MaxLength bounds the content's length in bytes, as that of a Reader
	// does. Default: what the read capability's level can hold.
	MaxLength int64

	// Batch is how many blocks one call of the Fetcher asks for. Default 512.
	Batch int

	// Parallel is how many calls of the Fetcher run at once. Default 4. Up to
	// Batch * Parallel blocks are asked for at a time, but none is held: each
	// is stored by the goroutine that brings it.
	Parallel int
}

// Filler fetches all nodes of a tree into Nodes, in whatever order they come.
// It asks for internal nodes before leaves, so that as many references as can
// be are known early, and for the nodes of one level in order. What stands in
// Nodes already is encrypted again and compared with its reference instead of
// being fetched. Each node that was found right costs 65 bytes of memory.
//
// A tree must be as a Reader wants it. A Filler is safe for concurrent use.
type Filler struct {
	c       ReadCap
	n       Nodes
	o       FillOptions
	zeroKey Key       // of a leaf of zeros, under the null secret
	bufs    sync.Pool // of *[]byte, one block size each
	loads   sync.Pool // of *loading

	running sync.Mutex // held by Run

	// unknown is read-locked while a leaf is stored whose reference is not
	// known: none becomes known meanwhile, so that nothing that was verified
	// is ever overwritten by what was not.
	unknown sync.RWMutex

	mu      sync.Mutex
	changed *sync.Cond // more is ready, or less is busy
	rows    []row      // by level
	ready   []run      // nodes that Run is to ask for: highest level first, then in order
	active  int        // calls of fill
	busy    int        // nodes that somebody checks and stores
	asked   []*asked
	unsure  map[int64]bool // leaves that PutLeaf stored unverified
	length  int64          // of the content; -1 until known
	broken  error          // why nothing more is to be had of this tree
}

// errBroken is what a Fetcher is told whose block is right and whose node
// breaks the rules of the tree: that is not the source's fault.
var errBroken = errors.New("eris: tree is given up")

// NewFiller returns a Filler of c's content. Nothing is loaded or asked for
// before Run.
func NewFiller(c ReadCap, n Nodes, o FillOptions) *Filler {
	if o.Batch <= 0 {
		o.Batch = 512
	}
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	f := &Filler{c: c, n: n, o: o, length: -1, unsure: map[int64]bool{}}
	f.changed = sync.NewCond(&f.mu)
	if f.o.MaxLength, f.broken = c.bound(o.MaxLength); f.broken != nil {
		return f
	}
	f.bufs.New = func() any { b := make([]byte, c.Size); return &b }
	f.loads.New = func() any { return newLoading(c.Size) }
	f.zeroKey = LeafKey(make([]byte, c.Size), Secret{})
	f.rows = newRows(c)
	return f
}

// Run fetches what is not there from src and returns the content's length in
// bytes when all is. It goes on with the rest when src lacks a block; the error
// then matches ErrNotFound, and another Run with another source takes up what
// is left. It stops when src or Nodes fail, whose error it returns, and when the
// tree breaks its rules, which Err tells. If two calls come at once, the second
// waits.
func (f *Filler) Run(ctx context.Context, src Fetcher) (length int64, err error) {
	f.running.Lock()
	defer f.running.Unlock()
	calls, cancel := context.WithCancel(ctx)
	defer cancel()
	var work sync.WaitGroup
	defer work.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan()
	for {
		var b want
		if err == nil && f.broken == nil && f.active < f.o.Parallel {
			b = f.pick()
		}
		if len(b.pairs) == 0 {
			if f.idle() {
				break
			}
			f.changed.Wait()
			continue
		}
		f.active++
		work.Go(func() {
			e := f.fill(calls, src, b)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.active--
			if e != nil && err == nil {
				err = e
				cancel()
			}
			f.changed.Signal()
		})
	}
	switch {
	case f.broken != nil:
		return 0, f.broken
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case err != nil:
		return 0, err
	}
	if ref, ok := f.firstOpen(); ok {
		return 0, &MissingError{ref}
	}
	return f.length, nil
}

// want is a run of nodes of one level that are asked for together.
type want struct {
	level int
	index []int64
	pairs []pair
}

// asked is what is being asked for.
type asked struct {
	want
	request
}

// fill loads or fetches nodes.
func (f *Filler) fill(ctx context.Context, src Fetcher, b want) error {
	rest, err := f.load(ctx, b)
	if err != nil || len(rest.pairs) == 0 {
		return err
	}
	r := &asked{want: rest}
	r.make(rest.pairs)
	f.note(r)
	defer f.forget(r)
	nonce := f.c.nonce(b.level)
	err = FetchMany(ctx, src, f.c.Size, r.refs, func(is []int, blocks [][]byte) (int, error) {
		buf := f.bufs.Get().(*[]byte)
		defer f.bufs.Put(buf)
		node := *buf
		return verifyMany(f.c.Size, r.refs, is, blocks, One(func(i int, block []byte) error {
			first := r.first[i]
			p := &rest.pairs[first]
			xor(node, block, &nonce, &p.key)
			if r.distinct() {
				return f.keep(b.level, rest.index[first], *p, node, true)
			}
			for k := first; k < len(r.origin); k++ {
				if r.origin[k] != first {
					continue
				}
				if err := f.keep(b.level, rest.index[k], *p, node, true); err != nil {
					return err
				}
			}
			return nil
		}))
	})
	if err != nil && f.has(rest) {
		return nil // it failed after it had given all
	}
	return err
}

// load verifies what Nodes has of some nodes and returns the rest.
func (f *Filler) load(ctx context.Context, b want) (rest want, err error) {
	l := f.loads.Get().(*loading)
	defer f.loads.Put(l)
	l.which, l.keys = l.which[:0], l.keys[:0]
	right := make([]bool, len(b.pairs))
	check := func() error {
		l.sums(f.c.nonce(b.level))
		for m, k := range l.which {
			if right[k] = l.refs[m] == b.pairs[k].ref; right[k] {
				if err := f.keep(b.level, b.index[k], b.pairs[k], l.nodes[m], false); err != nil {
					return err
				}
			}
		}
		l.which, l.keys = l.which[:0], l.keys[:0]
		return nil
	}
	for k, p := range b.pairs {
		if err := ctx.Err(); err != nil {
			return want{}, err
		}
		node := l.node()
		there, err := f.n.Load(b.level, b.index[k], node)
		if err != nil {
			return want{}, fmt.Errorf("eris: loading node %d of level %d: %w", b.index[k], b.level, err)
		}
		if !there || f.hole(b.level, p, node) {
			continue
		}
		l.which, l.keys = append(l.which, k), append(l.keys, p.key)
		if len(l.which) == len(l.refs) {
			if err := check(); err != nil {
				return want{}, err
			}
		}
	}
	if err := check(); err != nil {
		return want{}, err
	}
	if rest = b; slices.Contains(right, true) {
		rest = want{level: b.level}
		for k, p := range b.pairs {
			if !right[k] {
				rest.index, rest.pairs = append(rest.index, b.index[k]), append(rest.pairs, p)
			}
		}
	}
	if b.level == 0 {
		f.surely(rest.index)
	}
	return rest, nil
}

// loading is memory to verify several nodes at once, as many as there are refs. Of
// nodes and blocks it has as many as were there at once.
type loading struct {
	size          BlockSize
	which         []int // of those that are asked for
	keys          []Key
	nodes, blocks [][]byte
	refs          []Ref
}

func newLoading(size BlockSize) *loading {
	n := Together(size)
	return &loading{size: size, which: make([]int, 0, n), keys: make([]Key, 0, n), refs: make([]Ref, n)}
}

// node returns where a node is read that comes after those of which.
func (l *loading) node() []byte {
	n := len(l.which)
	if n == len(l.nodes) {
		l.nodes = append(l.nodes, make([]byte, l.size))
	}
	return l.nodes[n]
}

// sums sets refs to those of the first nodes, one for each key.
func (l *loading) sums(nonce nonce) {
	n := len(l.keys)
	for m := range n {
		if m == len(l.blocks) {
			l.blocks = append(l.blocks, make([]byte, l.size))
		}
		xor(l.blocks[m], l.nodes[m], &nonce, &l.keys[m])
	}
	BlockRefs(l.refs[:n], l.blocks[:n])
}

// hole reports whether a node is zeros, which holes in a file read as, and is not
// to be. That is found out without encrypting it. (Zeros of an uncommon secret are
// fetched again.)
func (f *Filler) hole(level int, p pair, node []byte) bool {
	return isZero(node) && (level > 0 || p.key != f.zeroKey)
}

// matches reports whether a leaf is the one that p names.
func (f *Filler) matches(p pair, node []byte) bool {
	if f.hole(0, p, node) {
		return false
	}
	block := f.bufs.Get().(*[]byte)
	defer f.bufs.Put(block)
	nonce := f.c.nonce(0)
	xor(*block, node, &nonce, &p.key)
	return BlockRef(*block) == p.ref
}

// keep takes in a node that was verified, and stores it unless it was loaded.
// One that is there, or being stored, is left alone.
func (f *Filler) keep(level int, index int64, p pair, node []byte, store bool) error {
	last, claimed := f.claim(level, index)
	if !claimed {
		return nil
	}
	pairs, length, err := f.inspect(level, index, last, p.ref, node)
	if err != nil {
		f.giveUp(err)
		f.release(level, index)
		return errBroken
	}
	if store {
		if err := f.n.Store(level, index, node); err != nil {
			f.release(level, index)
			return fmt.Errorf("eris: storing node %d of level %d: %w", index, level, err)
		}
	}
	f.n.Done(level, index, p.ref, p.key)
	f.settle(level, index, last, pairs, length)
	return nil
}

// inspect checks a node by its place in the tree. It returns the pairs of an
// internal node, and the content's length if the node is the last leaf, else
// -1.
func (f *Filler) inspect(level int, index int64, last bool, ref Ref, node []byte) (pairs []pair, length int64, err error) {
	if level == 0 {
		if !last {
			return nil, -1, nil
		}
		n, err := unpad(node, ref)
		if err != nil {
			return nil, 0, err
		}
		if length = index*int64(f.c.Size) + int64(n); length > f.o.MaxLength {
			return nil, 0, tooLong(f.o.MaxLength)
		}
		return nil, length, nil
	}
	arity := f.c.Size.Arity()
	pairs, err = f.c.children(level == int(f.c.Level), node, ref, make([]pair, 0, arity))
	switch {
	case err != nil:
		return nil, 0, err
	case !last && len(pairs) < arity:
		return nil, 0, notFull(ref)
	case index*int64(arity)+int64(len(pairs))-1 > f.c.lastNode(level-1, f.o.MaxLength):
		return nil, 0, tooLong(f.o.MaxLength)
	}
	return pairs, -1, nil
}

// PutLeaf takes a leaf from elsewhere: its part of the content, the last one
// with the padding. The error matches ErrCorrupt if that is not what the
// leaf's reference says. If the reference is not known, the leaf is stored all
// the same, and Run verifies it as it does all that it finds.
func (f *Filler) PutLeaf(index int64, node []byte) error {
	if f.o.MaxLength > 0 && len(node) != int(f.c.Size) {
		return fmt.Errorf("eris: leaf of %d bytes, not %d", len(node), int(f.c.Size))
	}
	p, known, err := f.leaf(index)
	if err != nil {
		return err
	}
	if !known {
		f.unknown.RLock()
		defer f.unknown.RUnlock()
		if p, known, err = f.leaf(index); err != nil {
			return err
		}
	}
	switch {
	case known && f.matches(p, node):
		if err := f.keep(0, index, p, node, true); !errors.Is(err, errBroken) {
			return err
		}
		return f.Err()
	case known:
		return &CorruptError{p.ref, "leaf does not match the reference"}
	}
	if err := f.n.Store(0, index, node); err != nil {
		return fmt.Errorf("eris: storing leaf %d: %w", index, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unsure[index] = true
	return nil
}
