package eris

import (
	"context"
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"

	"ersatz/internal/lanes"
)

// Fetcher gets blocks.
//
// Fetch asks for every reference and calls got(i, block) for each block that
// arrives, in any order and from any number of goroutines at once; all calls
// have returned when Fetch returns. got verifies the block against refs[i] and
// takes what it needs of it, so that the caller may reuse the bytes. It
// returns an error that matches ErrCorrupt if these bytes are not that block,
// and does nothing for a block that it has already.
//
// A nil error means that the source was asked for all: a reference for which
// got never succeeded is one that it does not have. Another error means that
// the source failed, or that ctx ended.
//
// A Fetcher is safe for concurrent use. It keeps neither refs nor got.
type Fetcher interface {
	Fetch(ctx context.Context, size BlockSize, refs []Ref, got func(i int, block []byte) error) error
}

// pair is what a parent says of a node.
type pair struct {
	ref Ref
	key Key
}

// batch is a run of nodes of one level, from the request to their decryption. Its
// memory is used again.
type batch struct {
	level int
	first int64 // index of the first node in its level
	pairs []pair
	nodes []byte        // plaintext, one block size each
	done  chan struct{} // gets one when err is set and nodes are complete
	err   error

	size  BlockSize
	nonce nonce
	asked request

	mu    sync.Mutex
	taken []bool // by reference that is asked for: it is decrypted, or being so
}

// newBatch returns an empty batch.
func newBatch() *batch { return &batch{done: make(chan struct{}, 1)} }

// fetch fills the batch from f. Nodes with the same pair are asked for once.
func (b *batch) fetch(ctx context.Context, f Fetcher, c ReadCap) {
	defer func() { b.done <- struct{}{} }()
	b.size, b.nonce = c.Size, c.nonce(b.level)
	b.asked.make(b.pairs)
	n := len(b.asked.refs)
	b.taken = slices.Grow(b.taken[:0], n)[:n]
	clear(b.taken)
	if b.err = FetchMany(ctx, f, c.Size, b.asked.refs, b.got); b.err != nil {
		return
	}
	if i := b.missing(); i >= 0 {
		b.err = &MissingError{b.asked.refs[i]}
		return
	}
	for i, j := range b.asked.origin {
		if j != i {
			copy(b.node(i), b.node(j))
		}
	}
}

// node returns where a node goes, or is.
func (b *batch) node(i int) []byte { return b.nodes[i*int(b.size):][:b.size] }

// got verifies blocks and decrypts them to where they go.
func (b *batch) got(is []int, blocks [][]byte) (int, error) {
	return verifyMany(b.size, b.asked.refs, is, blocks, b.take)
}

// take decrypts blocks that were verified, each reference once.
func (b *batch) take(is []int, blocks [][]byte) (int, error) {
	var room [verifyMost]int
	for _, k := range b.claim(is, room[:0]) {
		first := b.asked.first[is[k]]
		xor(b.node(first), blocks[k], &b.nonce, &b.pairs[first].key)
	}
	return len(is), nil
}

// claim appends those k to ks of which nobody has taken is[k].
func (b *batch) claim(is, ks []int) []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, i := range is {
		if !b.taken[i] {
			b.taken[i] = true
			ks = append(ks, k)
		}
	}
	return ks
}

// missing returns the first reference that was not taken, below 0 if all were.
func (b *batch) missing() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Index(b.taken, false)
}

// request is what is asked for to have some pairs. Its memory is used again.
type request struct {
	refs   []Ref   // to ask for
	first  []int   // for each, the first pair that has it
	origin []int   // for each pair, the first one that is the same
	table  []int32 // finds pairs by their references
}

// maxProbes bounds how many references are looked at to find the same one. They
// are hashes, so that few begin alike; where hostile ones do, a block is asked for
// twice.
const maxProbes = 16

// make sets the request to that for pairs.
func (r *request) make(pairs []pair) {
	n := len(pairs)
	r.refs, r.first, r.origin = slices.Grow(r.refs[:0], n), slices.Grow(r.first[:0], n), slices.Grow(r.origin[:0], n)
	size := 1 << bits.Len(uint(2*n)) // at most half of it is used
	r.table = slices.Grow(r.table[:0], size)[:size]
	clear(r.table)
	for i := range pairs {
		j := r.find(pairs, i)
		if j == i {
			r.refs = append(r.refs, pairs[i].ref)
			r.first = append(r.first, i)
		}
		r.origin = append(r.origin, j)
	}
}

// find returns the first pair that is the same as pair i, and was noted. If there is
// none, it notes pair i and returns that.
func (r *request) find(pairs []pair, i int) int {
	p := &pairs[i]
	for probe := range maxProbes {
		slot := r.slot(&p.ref, probe)
		if *slot == 0 {
			*slot = int32(i + 1)
			break
		}
		if q := &pairs[*slot-1]; same(&q.ref, &p.ref) && q.key == p.key {
			return int(*slot - 1)
		}
	}
	return i
}

// where returns a pair that has the reference.
func (r *request) where(pairs []pair, ref Ref) (int, bool) {
	for probe := range maxProbes {
		slot := r.slot(&ref, probe)
		if *slot == 0 {
			break
		}
		if same(&pairs[*slot-1].ref, &ref) {
			return int(*slot - 1), true
		}
	}
	return 0, false
}

// slot returns one of the places in the table where a pair with the reference may
// be noted: its number plus one, or 0.
func (r *request) slot(ref *Ref, probe int) *int32 {
	h := binary.NativeEndian.Uint64(ref[:]) + uint64(probe)
	return &r.table[h&uint64(len(r.table)-1)]
}

// distinct reports whether no two of the pairs are the same.
func (r *request) distinct() bool { return len(r.refs) == len(r.origin) }

// verifyMost is how many blocks are hashed before they are taken: what lies in the
// nearest cache then, or what is hashed at once.
const verifyMost = chunkBytes / int(Size1KiB)

// verifyMany hands take the blocks that are what their references say, refs[is[k]],
// in order, and some at a time: verifyMost at most. It returns how many were taken,
// and why the next one was not.
func verifyMany(size BlockSize, refs []Ref, is []int, blocks [][]byte, take GotMany) (int, error) {
	var sums [verifyMost]Ref
	most, ahead := Together(size), lanes.Width()
	for from := 0; from < len(blocks); from += most {
		chunk := blocks[from:min(from+most, len(blocks))]
		of := is[from:][:len(chunk)]
		whole := wholeBlocks(size, blocks[from:min(from+most+ahead, len(blocks))])
		n := min(len(whole), len(chunk))
		lanes.Sum256First(sums[:n], nil, whole)
		right := 0
		for right < n && same(&sums[right], &refs[of[right]]) {
			right++
		}
		if taken, err := take(of[:right], chunk[:right]); err != nil {
			return from + taken, err
		}
		switch {
		case right < n:
			return from + right, &CorruptError{refs[of[right]], "bytes do not match the reference"}
		case n < len(chunk):
			return from + n, &CorruptError{refs[of[n]], "wrong length"}
		}
	}
	return len(blocks), nil
}

// wholeBlocks returns those that blocks begin with and that have the size.
func wholeBlocks(size BlockSize, blocks [][]byte) [][]byte {
	for i, b := range blocks {
		if len(b) != int(size) {
			return blocks[:i]
		}
	}
	return blocks
}

// same compares references, for which Go would call the runtime.
func same(a, b *Ref) bool {
	return *(*[16]byte)(a[:16]) == *(*[16]byte)(b[:16]) && *(*[16]byte)(a[16:]) == *(*[16]byte)(b[16:])
}
