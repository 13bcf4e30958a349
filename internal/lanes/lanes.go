// Package lanes computes BLAKE2b-256 (RFC 7693) and SHA-256 (FIPS 180-4) of
// several messages at once, and ChaCha20 (RFC 8439), by the widest vector
// instructions that the processor has.
//
// One message cannot fill a vector register: each step needs the one before.
// Blocks of ERIS have one size, and there are many, so each takes a 64-bit lane
// of its own; files of a nar have any size, and take 32-bit lanes by turns.
//
// The implementation is chosen once, when the program starts. GODEBUG can
// choose a lesser one: cpu.avx512f=off, cpu.avx2=off, cpu.ssse3=off. (cpu.sha=off
// is crypto/sha256's; what this package chooses does not depend on it.) See
// docs/decisions/0001-lanes.md.
package lanes

import (
	"fmt"
	"unsafe"
)

//go:generate go run -C _asm . -out ../lanes_amd64.s -stubs ../stubs_amd64.go -pkg lanes
//go:generate go run -C _asm ./neon ../lanes_arm64.s

// MaxWidth is the largest Width of any processor.
const MaxWidth = 8

// block is what BLAKE2b takes at a time, in bytes.
const block = 128

// chachaBlock is what ChaCha20 gives at a time, in bytes.
const chachaBlock = 64

// maxChaCha is how far a counter of 32 bits goes, in bytes.
const maxChaCha = chachaBlock << 32

// Width returns how many messages Sum256 hashes at once on this machine: 8, 4, 2
// or 1. Calls with a multiple of it are the fastest.
func Width() int { return here.width() }

// Sum256 sets sums[i] to BLAKE2b-256 of msgs[i], keyed with *key unless key is
// nil. All messages have the same length, a positive multiple of 128 bytes;
// other lengths are a bug of the caller's, and it panics. There may be any
// number of them. It allocates nothing, and is safe for concurrent use.
func Sum256[S ~[32]byte](sums []S, key *[32]byte, msgs [][]byte) {
	if len(sums) != len(msgs) {
		panic(fmt.Sprintf("lanes: %d sums for %d messages", len(sums), len(msgs)))
	}
	Sum256First(sums, key, msgs)
}

// Sum256First is Sum256 of the first len(sums) messages. Those behind them, of the
// same length, are what comes next: as many as Width are fetched into the
// processor's cache meanwhile, where it has kernels that do so.
func Sum256First[S ~[32]byte](sums []S, key *[32]byte, msgs [][]byte) {
	// S is an array of 32 bytes by another name.
	sum256(here, unsafe.Slice((*[32]byte)(unsafe.Pointer(unsafe.SliceData(sums))), len(sums)), key, msgs)
}

func sum256(l level, sums [][32]byte, key *[32]byte, msgs [][]byte) {
	if len(sums) > len(msgs) {
		panic(fmt.Sprintf("lanes: %d sums for %d messages", len(sums), len(msgs)))
	}
	for _, m := range msgs {
		if len(m) != len(msgs[0]) || len(m) == 0 || len(m)%block != 0 {
			panic(fmt.Sprintf("lanes: a message of %d bytes beside one of %d", len(m), len(msgs[0])))
		}
	}
	l.sum256(sums, key, msgs)
}

// ChaCha20 encrypts or decrypts src into dst, with counter 0 at its start. Both
// have the same length, a positive multiple of 64 bytes up to 256 GiB, and are
// the same slice or do not overlap; other lengths are a bug of the caller's,
// and it panics. It allocates nothing, and is safe for concurrent use.
func ChaCha20(dst, src []byte, key *[32]byte, nonce *[12]byte) {
	chacha20(here, dst, src, key, nonce)
}

func chacha20(l level, dst, src []byte, key *[32]byte, nonce *[12]byte) {
	if len(dst) != len(src) || len(src) == 0 || len(src)%chachaBlock != 0 || uint64(len(src)) > maxChaCha {
		panic(fmt.Sprintf("lanes: ChaCha20 of %d bytes into %d", len(src), len(dst)))
	}
	l.chacha20(dst, src, key, nonce)
}
