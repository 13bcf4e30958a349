package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// How BLAKE2b goes, of 4 or 8 messages: lane i of each vector belongs to
// message i. The 16 words of the state are registers 0 to 15 over the whole
// message; the chain value h is in the frame. AVX2 has no further registers,
// so the words of the messages are in the frame too, and v8, beyond
// its two uses in a half round: its register is what rotations need as a
// temporary one. AVX-512 has registers for all.

const (
	block  = 128 // bytes
	rounds = 12
)

var iv = []uint64{
	0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
	0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
}

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

// blake2b is what the implementations have in common.
type blake2b struct {
	name  string
	lanes int
	v     []reg.VecPhysical
	// locals is how many vectors of the frame the implementation needs beside
	// the chain value.
	locals int
	// load brings the next block of the messages, word by word.
	load func(b *blake2b)
	// add adds word i of the messages to a vector.
	add func(b *blake2b, i int, v reg.VecPhysical)
	// rotate32 and so on rotate the vectors to the right.
	rotate32, rotate24, rotate16, rotate63 func(b *blake2b, v [4]reg.VecPhysical)
	// broadcast and the like are the instructions for a size and a set.
	broadcast, move func(from, to Op)
	plus, xor       func(a, b, to Op)
	// spill says that v8 is in the frame whenever it is not in use.
	spill bool
	iv    Mem

	msgs  []reg.GPVirtual // the next block of each message
	local area
	h     area
}

// v8 is where v8 is kept if it has no register.
func (b *blake2b) v8() Mem { return b.local.at(b.locals - 1) }

// generate writes a function that hashes b.lanes messages of blocks blocks
// each, from a state after t bytes on.
func (b *blake2b) generate() {
	pointer := map[int]string{4: "*[4]*byte", 8: "*[8]*byte"}[b.lanes]
	TEXT(b.name, 0, "func(sums *[32]byte, h *[8]uint64, msgs "+pointer+", blocks int, t uint64)")
	Doc(b.name + " sets the " + map[int]string{4: "4", 8: "8"}[b.lanes] +
		" sums at sums to those of as many messages of so many blocks, from state h after t bytes on.")
	Pragma("noescape")
	size := 8 * b.lanes
	b.local = frame(b.locals+8, size)
	b.h = area{b.local.at(b.locals), size}
	// Two words that change with each block: what v12 and v14 begin with.
	counter, last := AllocLocal(8), AllocLocal(8)

	p := Load(Param("msgs"), GP64())
	b.msgs = nil
	for i := range b.lanes {
		r := GP64()
		MOVQ(Mem{Base: p}.Offset(8*i), r)
		b.msgs = append(b.msgs, r)
	}
	h := Load(Param("h"), p)
	for i := range 8 {
		b.broadcast(Mem{Base: h}.Offset(8*i), b.v[i])
		b.move(b.v[i], b.h.at(i))
	}
	blocks := Load(Param("blocks"), GP64())
	t := Load(Param("t"), GP64())
	tmp := p
	MOVQ(b.iv.Offset(8*6), tmp)
	MOVQ(tmp, last)

	Label("next")
	ADDQ(I32(block), t)
	MOVQ(b.iv.Offset(8*4), tmp)
	XORQ(t, tmp)
	MOVQ(tmp, counter)
	CMPQ(blocks, Imm(1))
	JNE(LabelRef("compress"))
	NOTQ(last)

	Label("compress")
	b.load(b)
	for i := range 8 {
		b.move(b.h.at(i), b.v[i])
		b.broadcast(b.iv.Offset(8*i), b.v[8+i])
	}
	b.broadcast(counter, b.v[12])
	b.broadcast(last, b.v[14])
	if b.spill {
		b.move(b.v[8], b.v8())
	}
	for r := range rounds {
		Commentf("Round %d.", r)
		s := sigma[r%len(sigma)]
		b.half(columns, s[:8])
		b.half(diagonals, s[8:])
	}
	Comment("The new chain value.")
	for i := range 8 {
		if i == 0 && b.spill {
			b.xor(b.v8(), b.v[0], b.v[0])
		} else {
			b.xor(b.v[8+i], b.v[i], b.v[i])
		}
		b.xor(b.h.at(i), b.v[i], b.v[i])
		b.move(b.v[i], b.h.at(i))
	}
	DECQ(blocks)
	JNE(LabelRef("next"))
	b.store(Load(Param("sums"), tmp))
	VZEROUPPER()
	RET()
}

// half mixes four quadruples of the state with eight words of the message (RFC
// 7693, section 3.1), in step, so that none waits for another.
func (b *blake2b) half(quads [4][4]int, words []int) {
	all := func(f func(a, bb, c, d reg.VecPhysical, i int)) {
		for i, q := range quads {
			f(b.v[q[0]], b.v[q[1]], b.v[q[2]], b.v[q[3]], i)
		}
	}
	pick := func(k int) (out [4]reg.VecPhysical) {
		for i, q := range quads {
			out[i] = b.v[q[k]]
		}
		return out
	}
	first := true
	step := func(word int, rotateD, rotateB func(*blake2b, [4]reg.VecPhysical)) {
		all(func(a, _, _, _ reg.VecPhysical, i int) { b.add(b, words[2*i+word], a) })
		all(func(a, bb, _, _ reg.VecPhysical, _ int) { b.plus(bb, a, a) })
		all(func(a, _, _, d reg.VecPhysical, _ int) { b.xor(a, d, d) })
		rotateD(b, pick(3))
		all(func(_, _, c, d reg.VecPhysical, _ int) {
			if b.spill && first && c == b.v[8] {
				b.plus(b.v8(), d, c)
			} else {
				b.plus(d, c, c)
			}
		})
		all(func(_, bb, c, _ reg.VecPhysical, _ int) { b.xor(c, bb, bb) })
		if b.spill && !first {
			b.move(b.v[8], b.v8())
		}
		rotateB(b, pick(1))
		first = false
	}
	step(0, b.rotate32, b.rotate24)
	step(1, b.rotate16, b.rotate63)
}

// store writes the first four words of the chain value, lane by lane.
func (b *blake2b) store(sums reg.Register) {
	h := b.v[:4] // they are there still
	lo, hi := []reg.VecPhysical{b.v[4], b.v[6]}, []reg.VecPhysical{b.v[5], b.v[7]}
	for i := range 2 {
		VPUNPCKLQDQ(h[2*i+1], h[2*i], lo[i])
		VPUNPCKHQDQ(h[2*i+1], h[2*i], hi[i])
	}
	for lane := range b.lanes {
		for i := range 2 {
			from := lo[i]
			if lane%2 == 1 {
				from = hi[i]
			}
			to := Mem{Base: sums}.Offset(32*lane + 16*i)
			if b.lanes == 8 {
				VEXTRACTI64X2(Imm(uint64(lane/2)), from, to)
			} else {
				VEXTRACTI128(Imm(uint64(lane/2)), from, to)
			}
		}
	}
}

// load4 transposes 16 words of 4 messages: two at a time come from each, and
// put gets word i in its register of 4 lanes. The registers from to are used.
func (b *blake2b) load4(to []reg.VecPhysical, low []reg.VecPhysical, insert func(i, m, a, to Op), put func(i int, v reg.VecPhysical)) {
	for i := 0; i < 16; i += 2 {
		// A pair of words is two registers, in turns of four pairs.
		k := i % 8 * 2
		a, c, lo, hi := k, k+1, k+2, k+3
		at := func(m int) Mem { return Mem{Base: b.msgs[m]}.Offset(8 * i) }
		VMOVDQU(at(0), low[a])
		VMOVDQU(at(1), low[c])
		insert(Imm(1), at(2), to[a], to[a])
		insert(Imm(1), at(3), to[c], to[c])
		VPUNPCKLQDQ(to[c], to[a], to[lo])
		VPUNPCKHQDQ(to[c], to[a], to[hi])
		put(i, to[lo])
		put(i+1, to[hi])
	}
	b.advance()
}

func (b *blake2b) advance() {
	for _, m := range b.msgs {
		ADDQ(I32(block), m)
	}
}

func blake2bAVX2() {
	shuffle := func(name string, by int) Mem {
		var w [4]uint64
		for i := range 32 {
			w[i/8] |= uint64(i%16/8*8+(i%8+by)%8) << (i % 8 * 8)
		}
		return words(name, w[:]...)
	}
	r24, r16 := shuffle("rotate24", 3), shuffle("rotate16", 2)
	each := func(f func(v reg.VecPhysical)) func(*blake2b, [4]reg.VecPhysical) {
		return func(_ *blake2b, v [4]reg.VecPhysical) {
			for _, r := range v {
				f(r)
			}
		}
	}
	b := &blake2b{
		name: "blake2bAVX2", lanes: 4, v: y[:16], locals: 17, spill: true,
		iv:        words("iv", iv...),
		broadcast: func(from, to Op) { VPBROADCASTQ(from, to) },
		move:      func(from, to Op) { VMOVDQU(from, to) },
		plus:      func(a, b, to Op) { VPADDQ(a, b, to) },
		xor:       func(a, b, to Op) { VPXOR(a, b, to) },
		load: func(b *blake2b) {
			b.load4(b.v, x, func(i, m, a, to Op) { VINSERTI128(i, m, a, to) },
				func(i int, v reg.VecPhysical) { VMOVDQU(v, b.local.at(i)) })
		},
		add:      func(b *blake2b, i int, v reg.VecPhysical) { VPADDQ(b.local.at(i), v, v) },
		rotate32: each(func(v reg.VecPhysical) { VPSHUFD(Imm(0xb1), v, v) }),
		rotate24: each(func(v reg.VecPhysical) { VPSHUFB(r24, v, v) }),
		rotate16: each(func(v reg.VecPhysical) { VPSHUFB(r16, v, v) }),
		rotate63: func(b *blake2b, v [4]reg.VecPhysical) {
			t := b.v[8]
			for _, r := range v {
				VPADDQ(r, r, t)
				VPSRLQ(Imm(63), r, r)
				VPOR(t, r, r)
			}
		},
	}
	b.generate()
}

// evex completes an implementation with the rotations and the registers of
// AVX-512: words holds 16 of the messages'.
func (b *blake2b) evex(words []reg.VecPhysical) *blake2b {
	by := func(n uint64) func(*blake2b, [4]reg.VecPhysical) {
		return func(_ *blake2b, v [4]reg.VecPhysical) {
			for _, r := range v {
				VPRORQ(Imm(n), r, r)
			}
		}
	}
	b.rotate32, b.rotate24, b.rotate16, b.rotate63 = by(32), by(24), by(16), by(63)
	b.iv = NewDataAddr(Symbol{Name: "iv", Static: true}, 0)
	b.add = func(_ *blake2b, i int, v reg.VecPhysical) { VPADDQ(words[i], v, v) }
	b.broadcast = func(from, to Op) { VPBROADCASTQ(from, to) }
	b.move = func(from, to Op) { VMOVDQU64(from, to) }
	b.plus = func(a, b, to Op) { VPADDQ(a, b, to) }
	b.xor = func(a, b, to Op) { VPXORQ(a, b, to) }
	return b
}

func blake2bAVX512VL() {
	words := y[16:]
	b := (&blake2b{name: "blake2bAVX512VL", lanes: 4, v: y[:16]}).evex(words)
	b.load = func(b *blake2b) {
		b.load4(b.v, x, func(i, m, a, to Op) { VINSERTI128(i, m, a, to) },
			func(i int, v reg.VecPhysical) { VMOVDQA64(v, words[i]) })
	}
	b.generate()
}

// blake2bAVX512 is for 8 messages. Four words of each come at a time, as rows
// of two messages; the rows are such that the lanes end in order.
func blake2bAVX512() {
	words := z[16:]
	b := (&blake2b{name: "blake2bAVX512", lanes: 8, v: z[:16]}).evex(words)
	b.load = func(b *blake2b) {
		rows := [4][2]int{{0, 2}, {1, 3}, {4, 6}, {5, 7}}
		for i := 0; i < 16; i += 4 {
			k := i % 8 // two groups in turns, of eight registers each
			row, t := k, k+4
			if k == 4 {
				row, t = 8, 12
			}
			for j, m := range rows {
				VMOVDQU(Mem{Base: b.msgs[m[0]]}.Offset(8*i), y[row+j])
				VINSERTI64X4(Imm(1), Mem{Base: b.msgs[m[1]]}.Offset(8*i), z[row+j], z[row+j])
			}
			for j := range 2 {
				VPUNPCKLQDQ(z[row+2*j+1], z[row+2*j], z[t+2*j])
				VPUNPCKHQDQ(z[row+2*j+1], z[row+2*j], z[t+2*j+1])
			}
			VSHUFI64X2(Imm(0x88), z[t+2], z[t], words[i])
			VSHUFI64X2(Imm(0x88), z[t+3], z[t+1], words[i+1])
			VSHUFI64X2(Imm(0xdd), z[t+2], z[t], words[i+2])
			VSHUFI64X2(Imm(0xdd), z[t+3], z[t+1], words[i+3])
		}
		b.advance()
	}
	b.generate()
}
