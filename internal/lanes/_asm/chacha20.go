package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// How ChaCha20 goes, of 4, 8 or 16 blocks, a group: lane i of each vector belongs
// to block i, and the 16 words of the state (RFC 8439, section 2.3) are
// registers 0 to 15. At the end they are transposed into blocks. Each byte is
// read before it is written, and no other after that, so that source and
// destination may be the same.

const doubleRounds = 10

// chacha20Order is the order of a double round's steps without AVX-512, see mixer.
const chacha20Order = "100110002312103311100001222310232233013030322011111003243430322433" +
	"222555746556547554467774644665577766654446556777474455566666766777"

// chacha20 is what the implementations have in common.
type chacha20 struct {
	mixer
	dst, src, groups reg.Register
}

// begin starts a function for groups of lanes blocks, and puts the state of the
// first block into the frame.
func (c *chacha20) begin(name string, lanes int) (state Mem) {
	TEXT(name, 0, "func(dst, src *byte, key *[32]byte, nonce *[12]byte, groups int, counter uint32)")
	Doc(fmt.Sprintf("%s encrypts groups times %d bytes, the first block with the given counter.", name, 64*lanes))
	Pragma("noescape")
	c.dst = Load(Param("dst"), GP64())
	c.src = Load(Param("src"), GP64())
	c.groups = Load(Param("groups"), GP64())
	state = AllocLocal(64)
	p, q := GP64(), GP64()
	MOVOU(constant("expand"), x[0])
	MOVOU(x[0], state)
	key := Load(Param("key"), p)
	for i := range 2 {
		MOVOU(Mem{Base: key}.Offset(16*i), x[0])
		MOVOU(x[0], state.Offset(16+16*i))
	}
	MOVL(Load(Param("counter"), GP32()), state.Offset(48))
	nonce := Load(Param("nonce"), p)
	MOVQ(Mem{Base: nonce}, q)
	MOVQ(q, state.Offset(52))
	MOVL(Mem{Base: nonce}.Offset(8), q.As32())
	MOVL(q.As32(), state.Offset(60))
	return state
}

// rounds is all of them.
func (c *chacha20) rounds() {
	n := GP64()
	MOVQ(U32(doubleRounds), n)
	Label("rounds")
	c.round([2][2]int{{16, 12}, {8, 7}}, nil)
	DECQ(n)
	JNE(LabelRef("rounds"))
}

// end goes to the next group, of lanes blocks, or returns.
func (c *chacha20) end(lanes int) {
	ADDQ(I32(64*lanes), c.src)
	ADDQ(I32(64*lanes), c.dst)
	DECQ(c.groups)
	JNE(LabelRef("next"))
	if lanes > 4 {
		VZEROUPPER()
	}
	RET()
}

func chacha20AVX2() {
	const lanes = 8
	words("expand", 0x3320646e61707865, 0x6b20657479622d32) // "expand 32-byte k"
	numbers := words("numbers", 1<<32, 3<<32|2, 5<<32|4, 7<<32|6, 9<<32|8, 11<<32|10, 13<<32|12, 15<<32|14)
	left16, left8 := turns("left16", 4, 2), turns("left8", 4, 3)
	c := &chacha20{}
	state := c.begin("chacha20AVX2", lanes)
	local := frame(1+16+8, 4*lanes)
	first := area{local.at(1), local.size}   // what a group begins with
	second := area{local.at(17), local.size} // half of what it ends with
	c.mixer = mixer{
		v: y[:16], spill: true, v8: local.at(0),
		plus: func(a, b, to Op) { VPADDD(a, b, to) },
		xor:  func(a, b, to Op) { VPXOR(a, b, to) },
		move: func(from, to Op) { VMOVDQU(from, to) },
		rotate: func(by int, v reg.VecPhysical) []func() {
			switch by {
			case 16:
				return one(func() { VPSHUFB(left16, v, v) })
			case 8:
				return one(func() { VPSHUFB(left8, v, v) })
			}
			return []func(){
				func() { VPSLLD(Imm(uint64(by)), v, y[8]) },
				func() { VPSRLD(Imm(uint64(32-by)), v, v) },
				func() { VPOR(y[8], v, v) },
			}
		},
		order: chacha20Order,
	}
	for i := range 16 {
		VPBROADCASTD(state.Offset(4*i), y[0])
		if i == 12 {
			VPADDD(numbers, y[0], y[0])
		}
		VMOVDQU(y[0], first.at(i))
	}
	MOVL(U32(lanes), state) // from here on, what the counters grow by

	Label("next")
	for i := range 16 {
		VMOVDQU(first.at(i), y[i])
	}
	VMOVDQU(y[8], c.v8)
	c.rounds()
	VMOVDQU(c.v8, y[8])
	for i := range 16 {
		VPADDD(first.at(i), y[i], y[i])
		if i >= 8 {
			VMOVDQU(y[i], second.at(i-8))
		}
	}
	c.blocks8(0)
	for i := range 8 {
		VMOVDQU(second.at(i), y[i])
	}
	c.blocks8(32)
	VPBROADCASTD(state, y[0])
	VPADDD(first.at(12), y[0], y[0])
	VMOVDQU(y[0], first.at(12))
	c.end(lanes)
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
	// Halves of registers, for to turn them into whole ones is the work of
	// the one port that is needed most.
	for g := range 2 {
		for j := range 4 {
			low, high := 64*j+16*g+off, 64*(j+4)+16*g+off
			r, t := 4*g+j, 8+4*g+j
			VMOVDQU(Mem{Base: c.src}.Offset(low), x[t])
			VINSERTI128(Imm(1), Mem{Base: c.src}.Offset(high), y[t], y[t])
			VPXOR(y[t], y[r], y[r])
			VMOVDQU(x[r], Mem{Base: c.dst}.Offset(low))
			VEXTRACTI128(Imm(1), y[r], Mem{Base: c.dst}.Offset(high))
		}
	}
}

func chacha20AVX512() {
	const lanes = 16
	numbers := constant("numbers")
	c := &chacha20{}
	state := c.begin("chacha20AVX512", lanes)
	c.mixer = mixer{
		v:    z[:16],
		plus: func(a, b, to Op) { VPADDD(a, b, to) },
		xor:  func(a, b, to Op) { VPXORD(a, b, to) },
		rotate: func(by int, v reg.VecPhysical) []func() {
			return one(func() { VPROLD(Imm(uint64(by)), v, v) })
		},
	}

	Label("next")
	for i := range 16 {
		VPBROADCASTD(state.Offset(4*i), z[i])
	}
	VPADDD(numbers, z[12], z[12])
	c.rounds()
	for i := range 16 {
		VPADDD_BCST(state.Offset(4*i), z[i], z[i])
	}
	VPADDD(numbers, z[12], z[12])

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
	ADDL(Imm(lanes), state.Offset(48))
	c.end(lanes)
}
