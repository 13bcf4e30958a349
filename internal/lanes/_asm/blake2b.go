package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// How BLAKE2b goes, of 4 or 8 messages: lane i of each vector belongs to
// message i. The 16 words of the state are registers 0 to 15; the chain value h
// is in the frame. AVX-512 has registers for the words of the messages too; with
// AVX2 they are in the frame.

const (
	block  = 128 // bytes
	rounds = 12
)

var iv = []uint64{
	0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
	0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
}

// blake2bRotations are to the right.
var blake2bRotations = [2][2]int{{32, 24}, {16, 63}}

// sigma: RFC 7693, section 2.7.
var sigma = [10][16]int{
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
}

// blake2bOrder is the order of a round's steps with AVX2, see mixer.
const blake2bOrder = "030330012300012233010211333120130022100023112330003332271121111276" +
	"477624442255544777456764666757746775455466657447744455666565666555"

// blake2b is what the implementations have in common, and where they differ.
type blake2b struct {
	mixer
	name  string
	lanes int
	iv    Mem
	// words is where the words of the messages are: registers, or else the
	// frame.
	words []reg.VecPhysical

	// Set by generate.
	messages []reg.Register // the next block of each
	frame    area           // the words, without registers
}

// word is word i of the messages.
func (b *blake2b) word(i int) Op {
	if b.words == nil {
		return b.frame.at(i)
	}
	return b.words[i]
}

// generate writes a function that hashes messages of blocks times 128 bytes,
// from a state that t bytes have gone into.
func (b *blake2b) generate() {
	TEXT(b.name, 0, fmt.Sprintf("func(sums *[32]byte, h *[8]uint64, msgs, ahead *[%d]*byte, blocks int, t uint64)", b.lanes))
	Doc(fmt.Sprintf("%s hashes %d messages of so many blocks, from state h after t bytes on,", b.name, b.lanes),
		"and writes the sums to sums and what follows it. Those ahead, of as many blocks, may be",
		"on their way into the cache after it.")
	Pragma("noescape")
	const kept = 16 + 1 + 8 // words, v8, h
	b.frame = frame(kept, 8*b.lanes)
	b.v8 = b.frame.at(16)
	h := func(i int) Mem { return b.frame.at(17 + i) }
	// What v12 and v14 begin with changes from block to block.
	v12, v14 := AllocLocal(8), AllocLocal(8)

	p := GP64()
	from := Load(Param("msgs"), p)
	for i := range b.lanes {
		r := GP64()
		MOVQ(Mem{Base: from}.Offset(8*i), r)
		b.messages = append(b.messages, r)
	}
	from = Load(Param("h"), p)
	for i := range 8 {
		VPBROADCASTQ(Mem{Base: from}.Offset(8*i), b.v[i])
		b.move(b.v[i], h(i))
	}
	blocks := Load(Param("blocks"), GP64())
	t := Load(Param("t"), GP64())
	done := GP64() // bytes of each message
	XORQ(done, done)
	MOVQ(b.iv.Offset(8*6), p)
	MOVQ(p, v14)

	Label("next")
	ADDQ(I32(block), t)
	MOVQ(b.iv.Offset(8*4), p)
	XORQ(t, p)
	MOVQ(p, v12)
	CMPQ(blocks, Imm(1))
	JNE(LabelRef("compress"))
	NOTQ(v14) // the last block

	Label("compress")
	if b.lanes == 4 {
		b.load4()
	} else {
		b.load8()
	}
	for _, m := range b.messages {
		ADDQ(I32(block), m)
	}
	from = Load(Param("ahead"), p)
	for i := range b.lanes {
		m := Mem{Base: GP64(), Index: done, Scale: 1}
		MOVQ(Mem{Base: from}.Offset(8*i), m.Base)
		PREFETCHT0(m)
		PREFETCHT0(m.Offset(block / 2))
	}
	ADDQ(I32(block), done)
	for i := range 8 {
		VPBROADCASTQ(b.iv.Offset(8*i), b.v[8+i])
	}
	VPBROADCASTQ(v12, b.v[12])
	VPBROADCASTQ(v14, b.v[14])
	if b.spill {
		b.move(b.v[8], b.v8)
	}
	for r := range rounds {
		Commentf("Round %d.", r)
		s := sigma[r%len(sigma)]
		b.round(blake2bRotations, func(i int, a reg.VecPhysical) { b.plus(b.word(s[i]), a, a) })
	}
	Comment("The new chain value.")
	if b.spill {
		b.move(b.v8, b.v[8])
	}
	for i := range 8 {
		b.xor(b.v[8+i], b.v[i], b.v[i])
		b.xor(h(i), b.v[i], b.v[i])
		b.move(b.v[i], h(i))
	}
	DECQ(blocks)
	JNE(LabelRef("next"))
	b.store(Load(Param("sums"), p))
	VZEROUPPER()
	RET()
}

// load4 transposes the next 16 words of 4 messages: two words at a time come
// from each.
func (b *blake2b) load4() {
	for i := 0; i < 16; i += 2 {
		k := 8 + i%4*2 // four registers; h is in the first eight
		from := func(m int) Mem { return Mem{Base: b.messages[m]}.Offset(8 * i) }
		for j := range 2 {
			VMOVDQU(from(j), x[k+j])
			VINSERTI128(Imm(1), from(j+2), y[k+j], y[k+j])
		}
		if b.words != nil {
			VPUNPCKLQDQ(y[k+1], y[k], b.words[i])
			VPUNPCKHQDQ(y[k+1], y[k], b.words[i+1])
			continue
		}
		VPUNPCKLQDQ(y[k+1], y[k], y[k+2])
		VPUNPCKHQDQ(y[k+1], y[k], y[k+3])
		b.move(y[k+2], b.word(i))
		b.move(y[k+3], b.word(i+1))
	}
}

// load8 transposes the next 16 words of 8 messages: four words at a time come
// from each, in rows of two messages; the rows are such that the lanes end in
// order.
func (b *blake2b) load8() {
	rows := [4][2]int{{0, 2}, {1, 3}, {4, 6}, {5, 7}}
	for i := 0; i < 16; i += 4 {
		r := z[8:][:8] // h is in the first eight
		for j, m := range rows {
			VMOVDQU(Mem{Base: b.messages[m[0]]}.Offset(8*i), y[8+j])
			VINSERTI64X4(Imm(1), Mem{Base: b.messages[m[1]]}.Offset(8*i), r[j], r[j])
		}
		VPUNPCKLQDQ(r[1], r[0], r[4])
		VPUNPCKHQDQ(r[1], r[0], r[5])
		VPUNPCKLQDQ(r[3], r[2], r[6])
		VPUNPCKHQDQ(r[3], r[2], r[7])
		for j, halves := range []uint64{0x88, 0xdd} {
			VSHUFI64X2(Imm(halves), r[6], r[4], b.words[i+2*j])
			VSHUFI64X2(Imm(halves), r[7], r[5], b.words[i+2*j+1])
		}
	}
}

// store writes the first four words of the chain value, which are in v0 to v3
// still, lane by lane.
func (b *blake2b) store(sums reg.Register) {
	for i := range 2 {
		VPUNPCKLQDQ(b.v[2*i+1], b.v[2*i], b.v[4+2*i])
		VPUNPCKHQDQ(b.v[2*i+1], b.v[2*i], b.v[5+2*i])
	}
	for lane := range b.lanes {
		for i := range 2 {
			from, to := b.v[4+2*i+lane%2], Mem{Base: sums}.Offset(32*lane+16*i)
			if b.lanes == 4 {
				VEXTRACTI128(Imm(uint64(lane/2)), from, to)
			} else {
				VEXTRACTI64X2(Imm(uint64(lane/2)), from, to)
			}
		}
	}
}

func blake2bAVX2() {
	r24, r16 := turns("right24", 8, 3), turns("right16", 8, 2)
	b := &blake2b{name: "blake2bAVX2", lanes: 4, iv: words("iv", iv...)}
	b.mixer = mixer{
		v: y[:16], spill: true,
		plus: func(a, b, to Op) { VPADDQ(a, b, to) },
		xor:  func(a, b, to Op) { VPXOR(a, b, to) },
		move: func(from, to Op) { VMOVDQU(from, to) },
		rotate: func(by int, v reg.VecPhysical) []func() {
			switch by {
			case 32:
				return one(func() { VPSHUFD(Imm(0xb1), v, v) })
			case 24:
				return one(func() { VPSHUFB(r24, v, v) })
			case 16:
				return one(func() { VPSHUFB(r16, v, v) })
			}
			return []func(){
				func() { VPADDQ(v, v, y[8]) },
				func() { VPSRLQ(Imm(63), v, v) },
				func() { VPOR(y[8], v, v) },
			}
		},
		order: blake2bOrder,
	}
	b.generate()
	b.name, b.spill = "blake2bOneAVX2", false
	b.generateOne()
}

// blake2bEVEX is for AVX-512, with the registers of either size.
func blake2bEVEX(name string, lanes int, registers []reg.VecPhysical) {
	b := &blake2b{name: name, lanes: lanes, iv: constant("iv"), words: registers[16:]}
	b.mixer = mixer{
		v:    registers[:16],
		plus: func(a, b, to Op) { VPADDQ(a, b, to) },
		xor:  func(a, b, to Op) { VPXORQ(a, b, to) },
		move: func(from, to Op) { VMOVDQU64(from, to) },
		rotate: func(by int, v reg.VecPhysical) []func() {
			return one(func() { VPRORQ(Imm(uint64(by)), v, v) })
		},
	}
	b.generate()
	if lanes == 4 {
		b.name = "blake2bOneAVX512VL"
		b.generateOne()
	}
}
