package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// How ChaCha20 goes, of 8 or 16 blocks: lane i of each vector belongs to block
// i, and the 16 words of the state (RFC 8439, section 2.3) are registers 0 to
// 15. With AVX2, v8 is kept in the frame beyond its two uses in a half round,
// as in BLAKE2b. At the end the words are transposed into blocks.

const doubleRounds = 10

// chacha20 is what both implementations have in common.
type chacha20 struct {
	v             []reg.VecPhysical
	move          func(from, to Op)
	plus, xor     func(a, b, to Op)
	rotate        func(by int, v [4]reg.VecPhysical)
	spill         bool
	v8            Mem
	dst, src      Register
	groups, count Register
}

// Register is a general register.
type Register = reg.GPVirtual

// signature and doc of what processes groups of the given size.
func chachaText(name, size string) {
	TEXT(name, 0, "func(dst, src *byte, key *[32]byte, nonce *[12]byte, groups int, counter uint32)")
	Doc(name + " is ChaCha20 of groups times " + size + " bytes, the first block with the given counter.")
	Pragma("noescape")
}

// half mixes four quadruples (RFC 8439, section 2.1, "The ChaCha Quarter
// Round"), in step.
func (c *chacha20) half(quads [4][4]int) {
	pick := func(k int) (out [4]reg.VecPhysical) {
		for i, q := range quads {
			out[i] = c.v[q[k]]
		}
		return out
	}
	a, b, cc, d := pick(0), pick(1), pick(2), pick(3)
	step := func(byD, byB int) {
		for i := range 4 {
			c.plus(b[i], a[i], a[i])
		}
		for i := range 4 {
			c.xor(a[i], d[i], d[i])
		}
		c.rotate(byD, d)
		for i := range 4 {
			if c.spill && cc[i] == c.v[8] {
				c.plus(c.v8, d[i], cc[i])
			} else {
				c.plus(d[i], cc[i], cc[i])
			}
		}
		for i := range 4 {
			c.xor(cc[i], b[i], b[i])
		}
		if c.spill {
			c.move(c.v[8], c.v8)
		}
		c.rotate(byB, b)
	}
	step(16, 12)
	step(8, 7)
}

// mix is all rounds.
func (c *chacha20) mix() {
	MOVQ(U32(doubleRounds), c.count)
	Label("rounds")
	c.half(columns)
	c.half(diagonals)
	DECQ(c.count)
	JNE(LabelRef("rounds"))
}

// parameters loads those that are the same for all groups.
func (c *chacha20) parameters() {
	c.dst = Load(Param("dst"), GP64()).(Register)
	c.src = Load(Param("src"), GP64()).(Register)
	c.groups = Load(Param("groups"), GP64()).(Register)
	c.count = GP64()
}

// next goes to the group that follows, of size bytes.
func (c *chacha20) next(size int) {
	ADDQ(I32(size), c.src)
	ADDQ(I32(size), c.dst)
	DECQ(c.groups)
	JNE(LabelRef("next"))
	VZEROUPPER()
	RET()
}

// expand is the first row of the state, "expand 32-byte k".
var expand = []uint32{0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}

func chacha20AVX2() {
	const lanes, size = 8, 32
	constants := dwords("expand", expand...)
	iota := dwords("iota", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
	step := dwords("eight", lanes)
	shuffle := func(name string, by int) Mem {
		var w [8]uint32
		for i := range 32 {
			w[i/4] |= uint32(i%16/4*4+(i%4+4-by)%4) << (i % 4 * 8)
		}
		return dwords(name, w[:]...)
	}
	left16, left8 := shuffle("left16", 2), shuffle("left8", 1)

	chachaText("chacha20AVX2", "512")
	// 16 vectors that each group begins with, 8 for half of its words, v8.
	local := frame(16+8+1, size)
	half := area{local.at(16), size}
	c := &chacha20{
		v: y[:16], spill: true, v8: local.at(24),
		move: func(from, to Op) { VMOVDQU(from, to) },
		plus: func(a, b, to Op) { VPADDD(a, b, to) },
		xor:  func(a, b, to Op) { VPXOR(a, b, to) },
	}
	c.rotate = func(by int, v [4]reg.VecPhysical) {
		for _, r := range v {
			switch t := c.v[8]; by {
			case 16:
				VPSHUFB(left16, r, r)
			case 8:
				VPSHUFB(left8, r, r)
			default:
				VPSLLD(Imm(uint64(by)), r, t)
				VPSRLD(Imm(uint64(32-by)), r, r)
				VPOR(t, r, r)
			}
		}
	}
	c.parameters()
	key, nonce := Load(Param("key"), GP64()), Load(Param("nonce"), GP64())
	VMOVD(Load(Param("counter"), GP32()), x[1])
	for i := range 16 {
		var from Op = x[1]
		switch {
		case i < 4:
			from = constants.Offset(4 * i)
		case i < 12:
			from = Mem{Base: key}.Offset(4 * (i - 4))
		case i > 12:
			from = Mem{Base: nonce}.Offset(4 * (i - 13))
		}
		VPBROADCASTD(from, y[0])
		if i == 12 {
			VPADDD(iota, y[0], y[0])
		}
		VMOVDQU(y[0], local.at(i))
	}

	Label("next")
	for i := range 16 {
		VMOVDQU(local.at(i), y[i])
	}
	VMOVDQU(y[8], c.v8)
	c.mix()
	VMOVDQU(c.v8, y[8])
	for i := range 16 {
		VPADDD(local.at(i), y[i], y[i])
		if i >= 8 {
			VMOVDQU(y[i], half.at(i-8))
		}
	}
	c.blocks8(0)
	for i := range 8 {
		VMOVDQU(half.at(i), y[i])
	}
	c.blocks8(32)
	VPBROADCASTD(step, y[0])
	VPADDD(local.at(12), y[0], y[0])
	VMOVDQU(y[0], local.at(12))
	c.next(512)
}

// blocks8 transposes eight words of eight blocks, and encrypts the 32 bytes
// from off on of each with them.
func (c *chacha20) blocks8(off int) {
	for i := range 4 {
		VPUNPCKLDQ(y[2*i+1], y[2*i], y[8+2*i])
		VPUNPCKHDQ(y[2*i+1], y[2*i], y[9+2*i])
	}
	// y[4*g+j]: words 4g to 4g+3 of the blocks j and j+4.
	for g := range 2 {
		for j := range 2 {
			VPUNPCKLQDQ(y[8+4*g+j+2], y[8+4*g+j], y[4*g+2*j])
			VPUNPCKHQDQ(y[8+4*g+j+2], y[8+4*g+j], y[4*g+2*j+1])
		}
	}
	for j := range 4 {
		VPERM2I128(Imm(0x20), y[4+j], y[j], y[8+j])
		VPERM2I128(Imm(0x31), y[4+j], y[j], y[12+j])
	}
	for j := range 8 {
		VPXOR(Mem{Base: c.src}.Offset(64*j+off), y[8+j], y[8+j])
		VMOVDQU(y[8+j], Mem{Base: c.dst}.Offset(64*j+off))
	}
}

func chacha20AVX512() {
	constants := NewDataAddr(Symbol{Name: "expand", Static: true}, 0)
	iota := NewDataAddr(Symbol{Name: "iota", Static: true}, 0)
	chachaText("chacha20AVX512", "1024")
	state := AllocLocal(64) // the state of the first block of a group
	c := &chacha20{
		v:    z[:16],
		plus: func(a, b, to Op) { VPADDD(a, b, to) },
		xor:  func(a, b, to Op) { VPXORD(a, b, to) },
		rotate: func(by int, v [4]reg.VecPhysical) {
			for _, r := range v {
				VPROLD(Imm(uint64(by)), r, r)
			}
		},
	}
	c.parameters()
	key, nonce := Load(Param("key"), GP64()), Load(Param("nonce"), GP64())
	counter := Load(Param("counter"), GP32())
	VMOVDQU(constants, x[0])
	VMOVDQU(x[0], state)
	VMOVDQU(Mem{Base: key}, y[0])
	VMOVDQU(y[0], state.Offset(16))
	MOVL(counter, state.Offset(48))
	t := GP64()
	MOVQ(Mem{Base: nonce}, t)
	MOVQ(t, state.Offset(52))
	MOVL(Mem{Base: nonce}.Offset(8), t.As32())
	MOVL(t.As32(), state.Offset(60))

	Label("next")
	for i := range 16 {
		VPBROADCASTD(state.Offset(4*i), z[i])
	}
	VPADDD(iota, z[12], z[12])
	c.mix()
	for i := range 16 {
		VPADDD_BCST(state.Offset(4*i), z[i], z[i])
	}
	VPADDD(iota, z[12], z[12])

	for i := range 8 {
		VPUNPCKLDQ(z[2*i+1], z[2*i], z[16+2*i])
		VPUNPCKHDQ(z[2*i+1], z[2*i], z[17+2*i])
	}
	// z[4*g+j]: words 4g to 4g+3 of the blocks j, 4+j, 8+j, 12+j.
	for g := range 4 {
		for j := range 2 {
			VPUNPCKLQDQ(z[16+4*g+j+2], z[16+4*g+j], z[4*g+2*j])
			VPUNPCKHQDQ(z[16+4*g+j+2], z[16+4*g+j], z[4*g+2*j+1])
		}
	}
	for j := range 4 {
		r := z[16+4*j:][:4] // words 0 to 7 of two blocks, of the two others; then 8 to 15
		VSHUFI32X4(Imm(0x44), z[4+j], z[j], r[0])
		VSHUFI32X4(Imm(0xee), z[4+j], z[j], r[1])
		VSHUFI32X4(Imm(0x44), z[12+j], z[8+j], r[2])
		VSHUFI32X4(Imm(0xee), z[12+j], z[8+j], r[3])
		VSHUFI32X4(Imm(0x88), r[2], r[0], z[j])
		VSHUFI32X4(Imm(0xdd), r[2], r[0], z[4+j])
		VSHUFI32X4(Imm(0x88), r[3], r[1], z[8+j])
		VSHUFI32X4(Imm(0xdd), r[3], r[1], z[12+j])
	}
	for i := range 16 {
		VPXORD(Mem{Base: c.src}.Offset(64*i), z[i], z[i])
		VMOVDQU32(z[i], Mem{Base: c.dst}.Offset(64*i))
	}
	ADDL(Imm(16), state.Offset(48))
	c.next(1024)
}
