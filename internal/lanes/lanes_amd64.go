//go:build !purego

package lanes

import "golang.org/x/sys/cpu"

// level is an implementation.
type level int

const (
	portable level = iota
	ssse3          // 4 blocks of ChaCha20
	avx2           // 4 messages, 8 blocks of ChaCha20
	avx512         // 8 messages or 4, 16 blocks of ChaCha20
)

// here is the best level of this machine.
var here = best()

func best() level {
	switch {
	case !cpu.X86.HasSSSE3:
		return portable
	case !cpu.X86.HasAVX2:
		return ssse3
	case cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL:
		return avx512
	}
	return avx2
}

// levels returns those that this machine has.
func levels() []level { return []level{portable, ssse3, avx2, avx512}[:here+1] }

func (l level) String() string { return [...]string{"portable", "ssse3", "avx2", "avx512"}[l] }

func (l level) width() int { return [...]int{1, 1, 4, 8}[l] }

func (l level) sum256(sums [][32]byte, key *[32]byte, msgs [][]byte) {
	if l < avx2 {
		portableSum(sums, key, msgs[:len(sums)])
		return
	}
	first, t := l.start(key)
	for len(sums) > 0 {
		width := 4
		if l == avx512 && len(sums) > 4 {
			width = 8
		}
		n := min(width, len(sums))
		blocks := len(msgs[0]) / block
		if n == 1 {
			h := first
			l.one(&h, &msgs[0][0], blocks, t, ^uint64(0))
			digest(&sums[0], &h)
			return
		}
		// Lanes that are left over repeat the last message.
		var p, ahead [MaxWidth]*byte
		for i := range width {
			p[i] = &msgs[min(i, n-1)][0]
			ahead[i] = &msgs[min(n+i, len(msgs)-1)][0]
		}
		if n == width {
			l.lanes(width, &sums[0], &first, &p, &ahead, blocks, t)
		} else {
			var more [MaxWidth][32]byte
			l.lanes(width, &more[0], &first, &p, &ahead, blocks, t)
			copy(sums[:n], more[:])
		}
		sums, msgs = sums[n:], msgs[n:]
	}
}

// start is that of the portable code, faster.
func (l level) start(key *[32]byte) (h state, t uint64) {
	h = parameters(key)
	if key == nil {
		return h, 0
	}
	b := keyBlock(key)
	l.one(&h, &b[0], 1, 0, 0)
	return h, block
}

// one takes so many blocks into the state, after t bytes; last is all ones if
// they end the message, else zero.
func (l level) one(h *state, msg *byte, blocks int, t, last uint64) {
	if l == avx512 {
		blake2bOneAVX512VL(h, msg, blocks, t, last)
	} else {
		blake2bOneAVX2(h, msg, blocks, t, last)
	}
}

// lanes hashes width messages, 4 or 8, of so many blocks each, from state h
// after t bytes on, into *sums and the width-1 that follow it. Those that are
// ahead are of the same size, and come next.
func (l level) lanes(width int, sums *[32]byte, h *state, msgs, ahead *[MaxWidth]*byte, blocks int, t uint64) {
	switch {
	case width == 8:
		blake2bAVX512(sums, h, msgs, ahead, blocks, t)
	case l == avx512:
		blake2bAVX512VL(sums, h, (*[4]*byte)(msgs[:4]), (*[4]*byte)(ahead[:4]), blocks, t)
	default:
		blake2bAVX2(sums, h, (*[4]*byte)(msgs[:4]), (*[4]*byte)(ahead[:4]), blocks, t)
	}
}

func (l level) chacha20(dst, src []byte, key *[32]byte, nonce *[12]byte) {
	if l == portable {
		portableChaCha20(dst, src, key, nonce)
		return
	}
	shift := [...]uint8{ssse3: 8, avx2: 9, avx512: 10}[l] // a group's bytes
	groups := len(src) >> shift
	if groups > 0 {
		l.groups(&dst[0], &src[0], key, nonce, groups, 0)
	}
	if end := groups << shift; end < len(src) {
		var rest [1024]byte // a group, whatever its size
		copy(rest[:], src[end:])
		l.groups(&rest[0], &rest[0], key, nonce, 1, uint32(end/chachaBlock))
		copy(dst[end:], rest[:])
	}
}

// groups encrypts whole groups, the first block with the given counter.
func (l level) groups(dst, src *byte, key *[32]byte, nonce *[12]byte, n int, counter uint32) {
	switch l {
	case avx512:
		chacha20AVX512(dst, src, key, nonce, n, counter)
	case avx2:
		chacha20AVX2(dst, src, key, nonce, n, counter)
	default:
		chacha20SSSE3(dst, src, key, nonce, n, counter)
	}
}
