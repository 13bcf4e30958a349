package eris

import (
	"fmt"

	"golang.org/x/crypto/blake2b"

	"ersatz/internal/lanes"
)

// BlockRef returns the reference of a block: BLAKE2b-256 of its bytes, however many.
func BlockRef(block []byte) Ref {
	if !BlockSize(len(block)).Valid() {
		return blake2b.Sum256(block)
	}
	var r [1]Ref
	BlockRefs(r[:], [][]byte{block})
	return r[0]
}

// BlockRefs sets refs[i] to the reference of blocks[i], several times as fast as
// one after another. All blocks have the same size, one of the two, and there are
// as many refs.
func BlockRefs(refs []Ref, blocks [][]byte) { lanes.Sum256(refs, nil, blocks) }

// LeafKey returns the key of a leaf node: BLAKE2b-256 of its bytes, keyed with
// the convergence secret (section "Encrypt-Leaf-Node").
func LeafKey(node []byte, secret Secret) Key {
	var k [1]Key
	LeafKeys(k[:], [][]byte{node}, secret)
	return k[0]
}

// LeafKeys sets keys[i] to the key of the leaf nodes[i], as BlockRefs does.
func LeafKeys(keys []Key, nodes [][]byte, secret Secret) {
	lanes.Sum256(keys, (*[32]byte)(&secret), nodes)
}

// Leaf fills the last leaf node: content, which is shorter than node, then
// 0x80, then zeros (section "Padding").
func Leaf(node, content []byte) {
	n := copy(node, content)
	node[n] = 0x80
	clear(node[n+1:])
}

// Seal encrypts the node into dst, or decrypts a block: ChaCha20 (RFC 8439)
// with counter 0 and the nonce that the level gives. Both have the size of a
// block; they are the same slice or do not overlap.
func Seal(dst, node []byte, level int, key Key) {
	nonce := levelNonce(level)
	xor(dst, node, &nonce, &key)
}

type nonce = [12]byte

// levelNonce returns the nonce of a level's nodes (section "Encrypt").
func levelNonce(level int) nonce { return nonce{byte(level)} }

// xor is ChaCha20 with counter 0.
func xor(dst, src []byte, n *nonce, key *Key) {
	if len(dst) != len(src) || !BlockSize(len(src)).Valid() {
		panic(fmt.Sprintf("eris: xor of %d bytes into %d", len(src), len(dst)))
	}
	lanes.ChaCha20(dst, src, (*[32]byte)(key), n)
}
