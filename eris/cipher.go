package eris

import (
	"fmt"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"
)

// BlockRef returns the reference of a block: BLAKE2b-256 of its bytes.
func BlockRef(block []byte) Ref { return blake2b.Sum256(block) }

// LeafKey returns the key of a leaf node: BLAKE2b-256 of its bytes, keyed with
// the convergence secret (section "Encrypt-Leaf-Node").
func LeafKey(node []byte, secret Secret) Key {
	h, err := blake2b.New256(secret[:])
	if err != nil {
		panic(err) // a key of 32 bytes is never refused
	}
	h.Write(node)
	var k Key
	h.Sum(k[:0])
	return k
}

// BlockRefs sets refs[i] to the reference of blocks[i]. All blocks have one of
// the two block sizes, and there is a ref for each.
func BlockRefs(refs []Ref, blocks [][]byte) {
	for i, b := range blocks {
		refs[i] = BlockRef(b)
	}
}

// LeafKeys sets keys[i] to the key of the leaf nodes[i]. All nodes have one of
// the two block sizes, and there is a key for each.
func LeafKeys(keys []Key, nodes [][]byte, secret Secret) {
	for i, n := range nodes {
		keys[i] = LeafKey(n, secret)
	}
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

type nonce = [chacha20.NonceSize]byte

// levelNonce returns the nonce of a level's nodes (section "Encrypt").
func levelNonce(level int) nonce { return nonce{byte(level)} }

// edge is what xor leaves to the slow implementation at either end, in bytes:
// one block of the cipher.
const edge = 64

// xor is ChaCha20 with counter 0. x/crypto/chacha20 has no assembly on amd64,
// but the AEAD beside it has, and its keystream begins at counter 1. So the
// first 64 bytes take the one and the rest the other, whose tag of 16 bytes
// lands where the last 64 bytes, kept aside, are written afterwards. See
// docs/decisions/0001-chacha20.md.
//
// The AEAD costs one allocation of 32 bytes, and one more if n is not already
// on the heap.
func xor(dst, src []byte, n *nonce, key *Key) {
	if len(dst) != len(src) || !BlockSize(len(src)).Valid() {
		panic(fmt.Sprintf("eris: xor of %d bytes into %d", len(src), len(dst)))
	}
	slow, err := chacha20.NewUnauthenticatedCipher(key[:], n[:])
	if err != nil {
		panic(err) // neither length is ever wrong
	}
	fast, err := chacha20poly1305.New(key[:])
	if err != nil {
		panic(err)
	}
	end := len(src) - edge
	var last [edge]byte
	copy(last[:], src[end:])
	slow.XORKeyStream(dst[:edge], src[:edge])
	fast.Seal(dst[edge:edge], n[:], src[edge:end], nil)
	slow.SetCounter(uint32(end / edge))
	slow.XORKeyStream(dst[end:], last[:])
}
