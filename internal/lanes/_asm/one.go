package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// How BLAKE2b goes, of one message: each register has a row of the state, four
// words, so that four quadruples are mixed by one instruction. All wait for the
// one before, so what counts is how long that chain is. For the
// diagonals the rows are turned against each other. The second row is what
// comes last and what the next half needs first; it stays, and the others turn
// while it is made.

// generateOne writes a function that takes blocks into a state.
func (b *blake2b) generateOne() {
	TEXT(b.name, 0, "func(h *[8]uint64, msg *byte, blocks int, t uint64, last uint64)")
	Doc(b.name+" takes so many blocks into state h, after t bytes; last is all ones if they end the message,",
		"else zero.")
	Pragma("noescape")
	h := Load(Param("h"), GP64())
	msg := Load(Param("msg"), GP64())
	blocks := Load(Param("blocks"), GP64())
	t := Load(Param("t"), GP64())
	last, none := GP64(), GP64()
	XORQ(none, none)
	low, high := y[4], y[5] // the chain value
	b.move(Mem{Base: h}, low)
	b.move(Mem{Base: h}.Offset(32), high)
	b.move(b.iv, y[6])
	b.move(b.iv.Offset(32), y[7])

	Label("next")
	ADDQ(I32(block), t)
	CMPQ(blocks, Imm(1))
	MOVQ(none, last)
	from, err := Param("last").Resolve()
	if err != nil {
		panic(err)
	}
	CMOVQEQ(from.Addr, last)
	VMOVQ(t, x[9])
	VMOVQ(last, x[10])
	VINSERTI128(Imm(1), x[10], y[9], y[9])
	b.move(low, b.v[0])
	b.move(high, b.v[1])
	b.move(y[6], b.v[2])
	b.xor(y[7], y[9], b.v[3])
	for r := range rounds {
		Commentf("Round %d.", r)
		b.row(msg, sigma[r%len(sigma)][:8], [4]int{0, 1, 2, 3})
		VPERMQ(Imm(0x93), b.v[0], b.v[0])
		VPERMQ(Imm(0x4e), b.v[3], b.v[3])
		VPERMQ(Imm(0x39), b.v[2], b.v[2])
		b.row(msg, sigma[r%len(sigma)][8:], [4]int{3, 0, 1, 2})
		VPERMQ(Imm(0x39), b.v[0], b.v[0])
		VPERMQ(Imm(0x4e), b.v[3], b.v[3])
		VPERMQ(Imm(0x93), b.v[2], b.v[2])
	}
	Comment("The new chain value.")
	b.xor(b.v[2], b.v[0], b.v[0])
	b.xor(b.v[3], b.v[1], b.v[1])
	b.xor(b.v[0], low, low)
	b.xor(b.v[1], high, high)
	ADDQ(I32(block), msg)
	DECQ(blocks)
	JNE(LabelRef("next"))
	b.move(low, Mem{Base: h})
	b.move(high, Mem{Base: h}.Offset(32))
	VZEROUPPER()
	RET()
}

// row mixes the four quadruples, with words of the message for the quadruples
// that are in the lanes.
func (b *blake2b) row(msg reg.Register, s []int, lanes [4]int) {
	word := func(lane, k int) Mem { return Mem{Base: msg}.Offset(8 * s[2*lanes[lane]+k]) }
	for _, step := range b.chain([4]int{0, 1, 2, 3}, blake2bRotations, func(k int, a reg.VecPhysical) {
		// Loads that fill all lanes, and blends, leave the port alone that
		// has to turn the rows.
		for lane := range 4 {
			VPBROADCASTQ(word(lane, k), y[9+lane])
		}
		VPBLENDD(Imm(0x0c), y[10], y[9], y[9])
		VPBLENDD(Imm(0xc0), y[12], y[11], y[11])
		VPBLENDD(Imm(0xf0), y[11], y[9], y[9])
		b.plus(y[9], a, a)
	}) {
		step()
	}
}
