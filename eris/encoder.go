package eris

import (
	"errors"
	"fmt"
	"hash"
	"io"

	"golang.org/x/crypto/blake2b"
)

// Block is a block as the encoder makes it. Data and Node are valid until the
// function that got it returns.
type Block struct {
	Ref   Ref
	Key   Key
	Level int    // 0 for a leaf
	Index int64  // counts the nodes of a level, from the left
	Data  []byte // ciphertext, one block size
	Node  []byte // plaintext: padded content of a leaf, pairs of an internal node
}

// Encoder encodes a content that is written to it. It holds one node per
// level, 32 KiB each at most, and two for the leaf at hand, whatever the
// content's length. It is not safe for concurrent use.
type Encoder struct {
	size   BlockSize
	emit   func(Block) error
	keyed  hash.Hash // BLAKE2b keyed with the convergence secret
	leaf   []byte    // content of the leaf being filled
	block  []byte    // ciphertext at hand
	key    Key       // of the node at hand
	nonce  nonce     // of the node at hand
	counts []int64   // nodes emitted per level
	levels [][]byte  // pairs gathered per level, for a node of the level above
	n      int64
	err    error
}

var errFinished = errors.New("eris: encoder has finished")

// NewEncoder returns an Encoder that hands each block to emit, children before
// their parent, leaves from the left. A block may come more than once: blocks
// are a set. emit may be nil, when only the read capability is wanted. An
// error of emit ends the encoding.
func NewEncoder(size BlockSize, secret Secret, emit func(Block) error) *Encoder {
	if !size.Valid() {
		panic(fmt.Sprintf("eris: block size %d", int(size)))
	}
	keyed, err := blake2b.New256(secret[:])
	if err != nil {
		panic(err) // a key of 32 bytes is never refused
	}
	return &Encoder{
		size: size, emit: emit, keyed: keyed,
		leaf: make([]byte, 0, size), block: make([]byte, size),
	}
}

// Encode encodes all of r. It returns the read capability and the content's
// length in bytes.
func Encode(r io.Reader, size BlockSize, secret Secret, emit func(Block) error) (ReadCap, int64, error) {
	e := NewEncoder(size, secret, emit)
	if _, err := e.ReadFrom(r); err != nil {
		return ReadCap{}, e.n, err
	}
	c, err := e.Finish()
	return c, e.n, err
}

// Write adds p to the content.
func (e *Encoder) Write(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	written := len(p)
	for len(p) > 0 {
		// A whole leaf needs no copy.
		if len(e.leaf) == 0 && len(p) >= int(e.size) {
			e.encodeLeaf(p[:e.size])
			p = p[e.size:]
		} else {
			n := min(len(p), int(e.size)-len(e.leaf))
			e.leaf = append(e.leaf, p[:n]...)
			p = p[n:]
			if len(e.leaf) == int(e.size) {
				e.encodeLeaf(e.leaf)
				e.leaf = e.leaf[:0]
			}
		}
		if e.err != nil {
			return written - len(p), e.err
		}
	}
	e.n += int64(written)
	return written, nil
}

// ReadFrom adds all of r to the content, reading into the leaf itself.
func (e *Encoder) ReadFrom(r io.Reader) (int64, error) {
	start := e.n
	for e.err == nil {
		n, err := io.ReadFull(r, e.leaf[len(e.leaf):e.size])
		e.leaf = e.leaf[:len(e.leaf)+n]
		e.n += int64(n)
		if len(e.leaf) == int(e.size) {
			e.encodeLeaf(e.leaf)
			e.leaf = e.leaf[:0]
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return e.n - start, e.err
		}
		if err != nil {
			return e.n - start, fmt.Errorf("eris: reading content: %w", err)
		}
	}
	return e.n - start, e.err
}

// Finish pads the content, encodes what is left and returns the read
// capability. The Encoder cannot be used afterwards.
func (e *Encoder) Finish() (ReadCap, error) {
	if e.err != nil {
		return ReadCap{}, e.err
	}
	last := e.leaf[:e.size]
	Leaf(last, e.leaf)
	e.encodeLeaf(last)
	for level := 0; e.err == nil; level++ {
		pairs := e.levels[level]
		if level == len(e.levels)-1 && len(pairs) == pairSize {
			c := ReadCap{Size: e.size, Level: uint8(level)}
			copy(c.Root[:], pairs)
			copy(c.Key[:], pairs[32:])
			e.err = errFinished
			return c, nil
		}
		e.collapse(level)
	}
	return ReadCap{}, e.err
}

func (e *Encoder) encodeLeaf(node []byte) {
	e.keyed.Reset()
	e.keyed.Write(node)
	e.keyed.Sum(e.key[:0])
	e.encodeNode(0, node)
}

// collapse encodes the pairs gathered at a level as a node of the next.
func (e *Encoder) collapse(level int) {
	n := len(e.levels[level])
	node := e.levels[level][:e.size]
	clear(node[n:])
	e.levels[level] = node[:0]
	e.key = blake2b.Sum256(node)
	e.encodeNode(level+1, node)
}

// encodeNode encrypts a node with e.key, emits its block and adds its pair to the level.
// A full level is collapsed only when one more pair comes, so that a content
// of exactly arity nodes gets no node too many.
func (e *Encoder) encodeNode(level int, node []byte) {
	key := e.key
	e.nonce = levelNonce(level)
	xor(e.block, node, &e.nonce, &key)
	ref := BlockRef(e.block)
	if level == len(e.levels) {
		e.levels = append(e.levels, make([]byte, 0, e.size))
		e.counts = append(e.counts, 0)
	}
	index := e.counts[level]
	e.counts[level]++
	if e.emit != nil {
		b := Block{Ref: ref, Key: key, Level: level, Index: index, Data: e.block, Node: node}
		if err := e.emit(b); err != nil {
			e.err = fmt.Errorf("eris: block %s: %w", ref, err)
			return
		}
	}
	if len(e.levels[level]) == int(e.size) {
		if e.collapse(level); e.err != nil {
			return
		}
	}
	e.levels[level] = append(append(e.levels[level], ref[:]...), key[:]...)
}
