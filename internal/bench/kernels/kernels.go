// Package kernels does what no encoder or decoder of ERIS can leave out, with no tree
// around it: BLAKE2b and ChaCha20 of package lanes. It is the limit that package eris
// is measured by.
package kernels

import (
	"sync"

	"ersatz/internal/lanes"
)

// Bytes is how many bytes of blocks a Batch is given at a time: they stay in the
// second cache.
const Bytes = 256 << 10

// Batch works at some blocks at a time. Its memory is used again.
type Batch struct {
	Out        [][]byte // what came of each block
	Row        []byte   // Out, one after the other
	keys, sums [][32]byte
}

// New returns a Batch for blocks of size bytes, Bytes together.
func New(size int) *Batch {
	b := &Batch{}
	b.Row, b.Out = Places(size)
	b.keys, b.sums = make([][32]byte, len(b.Out)), make([][32]byte, len(b.Out))
	return b
}

// Places returns memory for as many blocks as a Batch takes, and the place of each.
func Places(size int) (row []byte, places [][]byte) {
	row = make([]byte, Bytes)
	for at := 0; at < len(row); at += size {
		places = append(places, row[at:][:size])
	}
	return row, places
}

// Len is how many blocks a Batch takes at a time.
func (b *Batch) Len() int { return len(b.Out) }

// Encode computes the key of each leaf, the block, and its reference. The tree above
// them is some 1/512 or 1/16 more.
func (b *Batch) Encode(nodes [][]byte) {
	var zero [32]byte
	lanes.Sum256(b.keys[:len(nodes)], &zero, nodes)
	b.encrypt(nodes)
	lanes.Sum256(b.sums[:len(nodes)], nil, b.Out[:len(nodes)])
}

// Decode computes the reference of each block, and the node in it. Any bytes are as
// good as a block.
func (b *Batch) Decode(blocks [][]byte) {
	lanes.Sum256(b.sums[:len(blocks)], nil, blocks)
	b.encrypt(blocks)
}

func (b *Batch) encrypt(nodes [][]byte) {
	var nonce [12]byte
	for i, node := range nodes {
		lanes.ChaCha20(b.Out[i], node, &b.keys[i], &nonce)
	}
}

// Spread has each core do work for its share of n blocks of size bytes: at gives
// block i, several goroutines call it.
func Spread(n, size, cores int, at func(i int) []byte, work func(*Batch, [][]byte)) {
	var wg sync.WaitGroup
	for core := range cores {
		from, to := core*n/cores, (core+1)*n/cores
		wg.Go(func() {
			b := New(size)
			blocks := make([][]byte, 0, b.Len())
			for i := from; i < to; i++ {
				if blocks = append(blocks, at(i)); len(blocks) == b.Len() || i+1 == to {
					work(b, blocks)
					blocks = blocks[:0]
				}
			}
		})
	}
	wg.Wait()
}
