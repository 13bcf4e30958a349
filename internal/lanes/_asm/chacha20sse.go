package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// chacha20SSSE3 is for processors before AVX2, four blocks at a time. It is as
// the one for AVX2, but each instruction overwrites one of its sources.
func chacha20SSSE3() {
	const lanes = 4
	c := &chacha20{}
	state := c.begin("chacha20SSSE3", lanes)
	local := frame(1+16+16, 4*lanes)
	first := area{local.at(1), local.size}  // what a group begins with
	after := area{local.at(17), local.size} // what it ends with
	c.mixer = mixer{
		v: x[:16], spill: true, v8: local.at(0),
		plus: func(a, b, to Op) {
			if to != b {
				MOVO(a, to)
				a = b
			}
			PADDD(a, to)
		},
		xor:  func(a, _, to Op) { PXOR(a, to) }, // to is the second
		move: func(from, to Op) { MOVO(from, to) },
		rotate: func(by int, v reg.VecPhysical) []func() {
			switch by {
			case 16:
				return one(func() { PSHUFB(constant("left16"), v) })
			case 8:
				return one(func() { PSHUFB(constant("left8"), v) })
			}
			return []func(){
				func() { MOVO(v, x[8]); PSLLL(Imm(uint64(by)), x[8]) },
				func() { PSRLL(Imm(uint64(32-by)), v) },
				func() { POR(x[8], v) },
			}
		},
		order: chacha20Order,
	}
	for i := range 16 {
		MOVSS(state.Offset(4*i), x[0])
		PSHUFD(Imm(0), x[0], x[0])
		if i == 12 {
			PADDD(constant("numbers"), x[0])
		}
		MOVO(x[0], first.at(i))
	}
	MOVL(U32(lanes), state) // from here on, what the counters grow by

	Label("next")
	for i := range 16 {
		MOVO(first.at(i), x[i])
	}
	MOVO(x[8], c.v8)
	c.rounds()
	MOVO(c.v8, x[8])
	for i := range 16 {
		PADDD(first.at(i), x[i])
		MOVO(x[i], after.at(i))
	}
	for i := 0; i < 16; i += 4 {
		c.blocks4(after, i)
	}
	MOVSS(state, x[0])
	PSHUFD(Imm(0), x[0], x[0])
	PADDD(first.at(12), x[0])
	MOVO(x[0], first.at(12))
	c.end(lanes)
}

// blocks4 transposes the words from i on to i+3 of four blocks, and encrypts 16
// bytes of each with them.
func (c *chacha20) blocks4(after area, i int) {
	a := x[i:][:4] // for each group of words others, so that none waits
	t := x[(i+4)%16:][:4]
	for j := range 4 {
		MOVO(after.at(i+j), a[j])
	}
	// Both halves of an unpacking; the low one overwrites.
	halves := func(low, high func(a, b Op), from, to, copy reg.VecPhysical) {
		MOVO(to, copy)
		low(from, to)
		high(from, copy)
	}
	dwords := func(a, b Op) { PUNPCKLLQ(a, b) }
	halves(dwords, func(a, b Op) { PUNPCKHLQ(a, b) }, a[1], a[0], t[0])
	halves(dwords, func(a, b Op) { PUNPCKHLQ(a, b) }, a[3], a[2], t[1])
	qwords := func(a, b Op) { PUNPCKLQDQ(a, b) }
	halves(qwords, func(a, b Op) { PUNPCKHQDQ(a, b) }, a[2], a[0], t[2])
	halves(qwords, func(a, b Op) { PUNPCKHQDQ(a, b) }, t[1], t[0], t[3])
	for j, r := range []reg.VecPhysical{a[0], t[2], t[0], t[3]} {
		at := 64*j + 4*i
		MOVOU(Mem{Base: c.src}.Offset(at), a[1])
		PXOR(a[1], r)
		MOVOU(r, Mem{Base: c.dst}.Offset(at))
	}
}
