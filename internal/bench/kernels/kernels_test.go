package kernels_test

import (
	"bytes"
	"crypto/rand"
	"sync"
	"testing"

	"ersatz/eris"
	"ersatz/internal/bench/kernels"
)

// TestSame wants the batch to do the work that it is the limit of: the blocks of an
// Encoder, and their nodes again.
func TestSame(t *testing.T) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		content := make([]byte, kernels.Bytes)
		rand.Read(content)
		var nodes, blocks [][]byte
		if _, _, err := eris.Encode(bytes.NewReader(content), size, eris.Secret{}, func(b eris.Block) error {
			if b.Level == 0 {
				nodes, blocks = append(nodes, bytes.Clone(b.Node)), append(blocks, bytes.Clone(b.Data))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		b := kernels.New(int(size))
		if b.Len()*int(size) != kernels.Bytes {
			t.Fatalf("%v: %d blocks", size, b.Len())
		}
		for what, way := range map[string]struct {
			of, want [][]byte
			work     func([][]byte)
		}{"encode": {nodes, blocks, b.Encode}, "decode": {blocks, nodes, b.Decode}} {
			if what == "decode" {
				b.Encode(nodes[:b.Len()]) // which leaves the keys
			}
			way.work(way.of[:b.Len()])
			for i, got := range b.Out {
				if !bytes.Equal(got, way.want[i]) {
					t.Fatalf("%v: %s: block %d differs", size, what, i)
				}
			}
		}
	}
}

// TestSpread wants each block to be worked at once, by any number of cores.
func TestSpread(t *testing.T) {
	for _, cores := range []int{1, 2, 7} {
		for _, n := range []int{0, 1, 8, 9, 100} {
			blocks := make([][]byte, n)
			for i := range blocks {
				blocks[i] = []byte{byte(i)}
			}
			var mu sync.Mutex
			got := map[byte]int{}
			kernels.Spread(n, 32<<10, cores, func(i int) []byte { return blocks[i] }, func(b *kernels.Batch, blocks [][]byte) {
				mu.Lock()
				defer mu.Unlock()
				if len(blocks) == 0 || len(blocks) > b.Len() {
					t.Errorf("%d blocks at a time", len(blocks))
				}
				for _, block := range blocks {
					got[block[0]]++
				}
			})
			for i := range n {
				if got[byte(i)] != 1 {
					t.Errorf("%d of %d by %d: %d times", i, n, cores, got[byte(i)])
				}
			}
		}
	}
}
