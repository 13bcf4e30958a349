package lanes

import (
	"encoding/binary"
	"math/bits"

	"golang.org/x/crypto/blake2b"
	xchacha20 "golang.org/x/crypto/chacha20"
)

// state is the chain value of BLAKE2b, which RFC 7693 calls h.
type state = [8]uint64

var iv = state{
	0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
	0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
}

// sigma is the order of the message's words in each round (RFC 7693, section
// 2.7, "Message Schedule SIGMA").
var sigma = [12][16]uint8{
	{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	{14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
	{11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
	{7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
	{9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
	{2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
	{12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
	{13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
	{6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
	{10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
	{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	{14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
}

// parameters returns the state before anything has gone into it (RFC 7693,
// section 2.5, "Parameter Block").
func parameters(key *[32]byte) state {
	h := iv
	h[0] ^= 1<<24 | 1<<16 | 32 // a depth and a fan-out of 1, a digest of 32 bytes
	if key != nil {
		h[0] ^= 32 << 8
	}
	return h
}

// keyBlock returns the block that goes before a keyed message.
func keyBlock(key *[32]byte) (b [block]byte) {
	copy(b[:], key[:])
	return b
}

// start returns the state before a message, and how many bytes have gone into
// it.
func start(key *[32]byte) (h state, t uint64) {
	h = parameters(key)
	if key == nil {
		return h, 0
	}
	b := keyBlock(key)
	compress(&h, &b, block, false)
	return h, block
}

// digest is the first half of a state.
func digest(sum *[32]byte, h *state) {
	for i := range 4 {
		binary.LittleEndian.PutUint64(sum[8*i:], h[i])
	}
}

// compress takes one block into the state (RFC 7693, section 3.2, "Compression
// Function F"); t counts the bytes up to its end.
func compress(h *state, b *[block]byte, t uint64, final bool) {
	var m [16]uint64
	for i := range m {
		m[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	v0, v1, v2, v3, v4, v5, v6, v7 := h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]
	v8, v9, v10, v11, v12, v13, v14, v15 := iv[0], iv[1], iv[2], iv[3], iv[4]^t, iv[5], iv[6], iv[7]
	if final {
		v14 = ^v14
	}
	for i := range sigma {
		s := &sigma[i]
		v0, v4, v8, v12 = mix(v0, v4, v8, v12, m[s[0]&15], m[s[1]&15])
		v1, v5, v9, v13 = mix(v1, v5, v9, v13, m[s[2]&15], m[s[3]&15])
		v2, v6, v10, v14 = mix(v2, v6, v10, v14, m[s[4]&15], m[s[5]&15])
		v3, v7, v11, v15 = mix(v3, v7, v11, v15, m[s[6]&15], m[s[7]&15])
		v0, v5, v10, v15 = mix(v0, v5, v10, v15, m[s[8]&15], m[s[9]&15])
		v1, v6, v11, v12 = mix(v1, v6, v11, v12, m[s[10]&15], m[s[11]&15])
		v2, v7, v8, v13 = mix(v2, v7, v8, v13, m[s[12]&15], m[s[13]&15])
		v3, v4, v9, v14 = mix(v3, v4, v9, v14, m[s[14]&15], m[s[15]&15])
	}
	h[0] ^= v0 ^ v8
	h[1] ^= v1 ^ v9
	h[2] ^= v2 ^ v10
	h[3] ^= v3 ^ v11
	h[4] ^= v4 ^ v12
	h[5] ^= v5 ^ v13
	h[6] ^= v6 ^ v14
	h[7] ^= v7 ^ v15
}

// mix is RFC 7693, section 3.1, "Mixing Function G".
func mix(a, b, c, d, x, y uint64) (uint64, uint64, uint64, uint64) {
	a += b + x
	d = bits.RotateLeft64(d^a, -32)
	c += d
	b = bits.RotateLeft64(b^c, -24)
	a += b + y
	d = bits.RotateLeft64(d^a, -16)
	c += d
	b = bits.RotateLeft64(b^c, -63)
	return a, b, c, d
}

// portableSum hashes one message after another. Without a key, x/crypto has
// the faster code; with one, it would allocate.
func portableSum(sums [][32]byte, key *[32]byte, msgs [][]byte) {
	if key == nil {
		for i, m := range msgs {
			sums[i] = blake2b.Sum256(m)
		}
		return
	}
	first, t0 := start(key)
	for i, m := range msgs {
		h, t := first, t0
		for ; len(m) > 0; m = m[block:] {
			t += block
			compress(&h, (*[block]byte)(m), t, len(m) == block)
		}
		digest(&sums[i], &h)
	}
}

// portableChaCha20 has assembly on arm64, and none on amd64.
func portableChaCha20(dst, src []byte, key *[32]byte, nonce *[12]byte) {
	c, err := xchacha20.NewUnauthenticatedCipher(key[:], nonce[:])
	if err != nil {
		panic(err) // neither length is ever wrong
	}
	c.XORKeyStream(dst, src)
}
