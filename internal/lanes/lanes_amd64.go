//go:build !purego

package lanes

import "golang.org/x/sys/cpu"

// level is an implementation.
type level int

const (
	portable level = iota
	avx2           // 4 messages, 8 blocks of ChaCha20
	avx512         // 8 messages or 4, 16 blocks of ChaCha20
)

// here is the best level of this machine.
var here = best()

func best() level {
	switch {
	case !cpu.X86.HasAVX2:
		return portable
	case cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL:
		return avx512
	}
	return avx2
}

// levels returns those that this machine has.
func levels() []level { return []level{portable, avx2, avx512}[:here+1] }

func (l level) String() string { return [...]string{"portable", "avx2", "avx512"}[l] }

func (l level) width() int { return [...]int{1, 4, 8}[l] }

func (l level) sum256(sums [][32]byte, key *[32]byte, msgs [][]byte) {
	if l == portable || len(msgs) == 0 {
		portableSum(sums, key, msgs)
		return
	}
	h, t := start(key)
	blocks := len(msgs[0]) / block
	for len(msgs) > 0 {
		width := 4
		if l == avx512 && len(msgs) > 4 {
			width = 8
		}
		n := min(width, len(msgs))
		// Lanes that are left over repeat the last message.
		var p [8]*byte
		for i := range width {
			p[i] = &msgs[min(i, n-1)][0]
		}
		out := &sums[0]
		var more [8][32]byte
		if n < width {
			out = &more[0]
		}
		switch {
		case width == 8:
			blake2bAVX512(out, &h, &p, blocks, t)
		case l == avx512:
			blake2bAVX512VL(out, &h, (*[4]*byte)(p[:4]), blocks, t)
		default:
			blake2bAVX2(out, &h, (*[4]*byte)(p[:4]), blocks, t)
		}
		if n < width {
			copy(sums[:n], more[:])
		}
		sums, msgs = sums[n:], msgs[n:]
	}
}

func (l level) chacha20(dst, src []byte, key *[32]byte, nonce *[12]byte) {
	if l == portable {
		portableChaCha20(dst, src, key, nonce)
		return
	}
	group := [...]int{avx2: 512, avx512: 1024}[l]
	if groups := len(src) / group; groups > 0 {
		l.chachaGroups(&dst[0], &src[0], key, nonce, groups, 0)
	}
	end := len(src) / group * group
	if end == len(src) {
		return
	}
	var rest [1024]byte
	copy(rest[:], src[end:])
	l.chachaGroups(&rest[0], &rest[0], key, nonce, 1, uint32(end/chachaBlock))
	copy(dst[end:], rest[:])
}

func (l level) chachaGroups(dst, src *byte, key *[32]byte, nonce *[12]byte, groups int, counter uint32) {
	if l == avx512 {
		chacha20AVX512(dst, src, key, nonce, groups, counter)
	} else {
		chacha20AVX2(dst, src, key, nonce, groups, counter)
	}
}
