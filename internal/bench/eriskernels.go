package bench

import (
	"sync"

	"ersatz/internal/lanes"
)

// kernelBatch is how many bytes of blocks a kernel is given at a time: they
// stay in the second cache.
const kernelBatch = 256 << 10

// encodeKernels computes what no encoder can leave out: the key of each block,
// the block, and its reference. The tree above them is some 1/512 or 1/16 more.
func encodeKernels(content []byte, size, cores int) error {
	return kernels(content, size, cores, func(b *batchBuffers, nodes [][]byte) {
		var zero [32]byte
		lanes.Sum256(b.keys[:len(nodes)], &zero, nodes)
		b.encrypt(nodes)
		lanes.Sum256(b.sums[:len(nodes)], nil, b.blocks[:len(nodes)])
	})
}

// decodeKernels computes what no decoder can leave out: the reference of each
// block, and the node in it. Any bytes are as good as a block.
func decodeKernels(blocks []byte, size, cores int) error {
	return kernels(blocks, size, cores, func(b *batchBuffers, blocks [][]byte) {
		lanes.Sum256(b.sums[:len(blocks)], nil, blocks)
		b.encrypt(blocks)
	})
}

// batchBuffers is what a goroutine works with.
type batchBuffers struct {
	keys, sums [][32]byte
	blocks     [][]byte
}

func (b *batchBuffers) encrypt(nodes [][]byte) {
	var nonce [12]byte
	for i, node := range nodes {
		lanes.ChaCha20(b.blocks[i], node, &b.keys[i], &nonce)
	}
}

// kernels has each core do its share of a content, which is a multiple of
// kernelBatch times cores.
func kernels(content []byte, size, cores int, work func(*batchBuffers, [][]byte)) error {
	var wg sync.WaitGroup
	share := len(content) / cores
	for i := range cores {
		part := content[i*share : (i+1)*share]
		wg.Go(func() {
			n := kernelBatch / size
			b := batchBuffers{keys: make([][32]byte, n), sums: make([][32]byte, n)}
			for range n {
				b.blocks = append(b.blocks, make([]byte, size))
			}
			nodes := make([][]byte, 0, n)
			for len(part) >= size {
				nodes = nodes[:0]
				for len(nodes) < n && len(part) >= size {
					nodes = append(nodes, part[:size])
					part = part[size:]
				}
				work(&b, nodes)
			}
		})
	}
	wg.Wait()
	return nil
}
