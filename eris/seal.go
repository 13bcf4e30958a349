package eris

import "ersatz/internal/lanes"

// What an Encoder works on at a time, in bytes of nodes.
const (
	// batchBytes are a multiple of as many leaves as are hashed at once, of both
	// sizes, and, at 1 KiB, of what one node of level 1 holds.
	batchBytes = 256 << 10

	// chunkBytes are keyed, encrypted and named before the next ones are, so that
	// all three find them in the processor's nearest cache. Where more than that
	// is hashed at once, it is these.
	chunkBytes = 32 << 10
)

// sealing is consecutive nodes of one level, and their blocks.
type sealing struct {
	size   int
	nodes  []byte // plaintext, one block size each
	blocks []byte // ciphertext, the same
	keys   []Key
	refs   []Ref
	msgs   [][]byte // memory for the parts of a chunk
}

// sealed is one node of a sealing.
type sealed struct {
	ref         Ref
	key         Key
	block, node []byte
}

func (r *sealing) at(i int) sealed {
	from, to := i*r.size, (i+1)*r.size
	return sealed{r.refs[i], r.keys[i], r.blocks[from:to], r.nodes[from:to]}
}

// seal makes the blocks of the nodes. secret is that of leaves, nil for internal
// nodes, whose keys are plain hashes.
func (r *sealing) seal(n *nonce, secret *Secret) {
	r.fit()
	for i := 0; i < len(r.refs); i += len(r.msgs) {
		msgs := r.msgs[:min(len(r.msgs), len(r.refs)-i)]
		from := i * r.size
		split(msgs, r.nodes[from:], r.size)
		lanes.Sum256(r.keys[i:][:len(msgs)], (*[32]byte)(secret), msgs)
		for k, node := range msgs {
			xor(r.blocks[from+k*r.size:][:r.size], node, n, &r.keys[i+k])
		}
		split(msgs, r.blocks[from:], r.size)
		lanes.Sum256(r.refs[i:][:len(msgs)], nil, msgs)
	}
}

// fit makes room for the blocks of the nodes.
func (r *sealing) fit() {
	n := len(r.nodes) / r.size
	if n > cap(r.refs) {
		r.blocks, r.keys, r.refs = make([]byte, len(r.nodes)), make([]Key, n), make([]Ref, n)
		r.msgs = make([][]byte, min(n, Together(BlockSize(r.size))))
	}
	r.blocks, r.keys, r.refs = r.blocks[:len(r.nodes)], r.keys[:n], r.refs[:n]
}

// split sets parts to what b begins with.
func split(parts [][]byte, b []byte, size int) {
	for i := range parts {
		parts[i] = b[i*size:][:size]
	}
}

// leafBatch is leaves that are sealed together, with the nodes of level 1 that have all
// their children among them: where blocks are small, these come in numbers too.
type leafBatch struct {
	leaves  sealing
	parents sealing
	secret  Secret
	nonces  [2]nonce      // of leaves and parents
	done    chan struct{} // gets one when a crew has sealed the batch
}

func newLeafBatch(size BlockSize, secret Secret, room int) *leafBatch {
	return &leafBatch{
		leaves: sealing{size: int(size), nodes: make([]byte, 0, room)}, parents: sealing{size: int(size)},
		secret: secret, nonces: [2]nonce{levelNonce(0), levelNonce(1)}, done: make(chan struct{}, 1),
	}
}

// room returns where more content goes: empty if the batch is full. It takes as
// much memory as the content at hand, twice at most.
func (b *leafBatch) room() []byte {
	l := &b.leaves
	if len(l.nodes) == cap(l.nodes) && len(l.nodes) < batchBytes {
		l.nodes = append(make([]byte, 0, 2*len(l.nodes)), l.nodes...)
	}
	return l.nodes[len(l.nodes):cap(l.nodes)]
}

// seal makes the blocks of whole leaves, and of the parents.
func (b *leafBatch) seal() {
	b.leaves.seal(&b.nonces[0], &b.secret)
	b.parents.nodes = b.parents.nodes[:0]
	arity := BlockSize(b.leaves.size).Arity()
	whole := len(b.leaves.refs) / arity * arity
	if whole == 0 {
		return
	}
	for i := range whole {
		b.parents.nodes = append(append(b.parents.nodes, b.leaves.refs[i][:]...), b.leaves.keys[i][:]...)
	}
	b.parents.seal(&b.nonces[1], nil)
}
