package eris

import (
	"context"
	"encoding/binary"
	"sync/atomic"
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

// batch is a run of nodes of one level, from the request to their decryption.
type batch struct {
	level int
	first int64 // index of the first node in its level
	pairs []pair
	nodes []byte        // plaintext, one block size each
	done  chan struct{} // closed when err is set and nodes are complete
	err   error
}

const (
	slotEmpty int32 = iota
	slotBusy
	slotFull
)

// fetch fills the batch from f. Nodes with the same pair are asked for once.
func (b *batch) fetch(ctx context.Context, f Fetcher, c ReadCap) {
	defer close(b.done)
	size := int(c.Size)
	refs, unique, origin := distinct(b.pairs)
	nonce := c.nonce(b.level)
	slots := make([]atomic.Int32, len(refs))
	got := func(i int, block []byte) error {
		p := &b.pairs[unique[i]]
		if err := verify(block, c.Size, p.ref); err != nil {
			return err
		}
		if slots[i].CompareAndSwap(slotEmpty, slotBusy) {
			xor(b.nodes[unique[i]*size:][:size], block, &nonce, &p.key)
			slots[i].Store(slotFull)
		}
		return nil
	}
	if b.err = f.Fetch(ctx, c.Size, refs, got); b.err != nil {
		return
	}
	for i := range slots {
		if slots[i].Load() != slotFull {
			b.err = &MissingError{refs[i]}
			return
		}
	}
	for i, j := range origin {
		if j != i {
			copy(b.nodes[i*size:][:size], b.nodes[j*size:][:size])
		}
	}
}

// distinct returns the references to ask for, for each the first pair that has
// it, and for each pair the first one that is the same.
func distinct(pairs []pair) (refs []Ref, first, origin []int) {
	refs = make([]Ref, 0, len(pairs))
	first = make([]int, 0, len(pairs))
	origin = make([]int, len(pairs))
	// A reference is a hash, so its first bytes will do for a map; where
	// hostile ones agree in them, a block is asked for twice.
	seen := make(map[uint64]int, len(pairs))
	for i, p := range pairs {
		h := binary.NativeEndian.Uint64(p.ref[:])
		j, ok := seen[h]
		if !ok || pairs[j] != p {
			j, seen[h] = i, i
			refs = append(refs, p.ref)
			first = append(first, i)
		}
		origin[i] = j
	}
	return refs, first, origin
}

// verify compares a block with its reference.
func verify(block []byte, size BlockSize, ref Ref) error {
	if len(block) != int(size) {
		return &CorruptError{ref, "wrong length"}
	}
	if BlockRef(block) != ref {
		return &CorruptError{ref, "bytes do not match the reference"}
	}
	return nil
}
