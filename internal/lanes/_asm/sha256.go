package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// How SHA-256 goes, of 8 or 16 messages: lane i of each vector belongs to
// message i. Registers 0 to 7 are the working variables, 16 to 31 the last 16
// words of the message schedule, which are what the next needs; with AVX2 they
// are in the frame. The hash values stay in memory, where the caller has them,
// for he changes lanes.

const (
	shaBlock = 64 // bytes
	shaLanes = 16 // the hash values have room for them
)

// shaK: FIPS 180-4, section 4.2.2, "SHA-224 and SHA-256 Constants".
var shaK = [64]uint32{
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}

// The truth tables that VPTERNLOGD takes.
const (
	ternaryXor      = 0x96
	ternaryChoose   = 0xca // Ch(x, y, z), x where the result goes
	ternaryMajority = 0xe8
)

// sha256 has what the implementations differ in.
type sha256 struct {
	lanes int
	// words is where the last 16 words of the message schedule are: registers, or
	// else the frame.
	words []reg.VecPhysical
	frame area
	v     []reg.VecPhysical // the working variables; from 8 on for anything
	swap  Mem               // what VPSHUFB needs to turn the bytes of each word around
	state reg.Register
	msgs  reg.Register
	off   reg.Register // of the next block in each message
	k     reg.Register // the constants of the next 16 rounds
}

func shaKernels() {
	var k [32]uint64
	for i := range k {
		k[i] = uint64(shaK[2*i]) | uint64(shaK[2*i+1])<<32
	}
	var swap []uint64
	for i := range 8 {
		swap = append(swap, 0x0405060700010203+0x0808080808080808*uint64(i%2))
	}
	s := &sha256{lanes: 16, v: z, words: z[16:], swap: words("swap", swap...)}
	all := words("k256", k[:]...)
	s.generate("sha256AVX512", all)
	s.lanes, s.v, s.words = 8, y, y[16:]
	s.generate("sha256AVX512VL", all)
	s.words = nil
	s.generate("sha256AVX2", all)
}

// hasSHA asks the processor what package cpu does not.
func hasSHA() {
	TEXT("hasSHA", 0, "func() bool")
	Doc("hasSHA says whether the processor has instructions for SHA-256. It must have AVX2.")
	XORL(reg.ECX, reg.ECX)
	MOVL(U32(7), reg.EAX)
	CPUID()
	SHRL(Imm(29), reg.EBX) // "Structured Extended Feature Flags", EBX bit 29
	ANDL(Imm(1), reg.EBX)
	Store(reg.BL, ReturnIndex(0))
	RET()
}

func (s *sha256) generate(name string, k Mem) {
	TEXT(name, 0, fmt.Sprintf("func(state *[8][%d]uint32, msgs *[%[1]d]*byte, blocks int)", shaLanes))
	Doc(fmt.Sprintf("%s takes so many blocks of each of the first %d messages into state: word i of", name, s.lanes),
		"message j is state[i][j].")
	Pragma("noescape")
	s.state = Load(Param("state"), GP64())
	s.msgs = Load(Param("msgs"), GP64())
	blocks := Load(Param("blocks"), GP64())
	s.off, s.k = GP64(), GP64()
	XORQ(s.off, s.off)
	if s.words == nil {
		s.frame = frame(16, 32)
	}
	h := func(i int) Mem { return Mem{Base: s.state}.Offset(4 * shaLanes * i) }

	Label("next")
	if s.lanes == 8 {
		s.load8()
	} else {
		s.load16()
	}
	for i := range 8 {
		s.move(h(i), s.v[i])
	}
	LEAQ(k, s.k)
	n := GP64()
	MOVQ(U32(3), n)
	if s.words == nil {
		VPXOR(s.v[1], s.v[2], s.v[14])
	}
	Label("rounds")
	for t := range 16 {
		s.round(t)
		s.extend(t)
	}
	ADDQ(Imm(16*4), s.k)
	DECQ(n)
	JNE(LabelRef("rounds"))
	for t := range 16 {
		s.round(t)
	}
	Comment("The new hash values.")
	for i := range 8 {
		VPADDD(h(i), s.v[i], s.v[i])
		s.move(s.v[i], h(i))
	}
	ADDQ(Imm(shaBlock), s.off)
	DECQ(blocks)
	JNE(LabelRef("next"))
	VZEROUPPER()
	RET()
}

func (s *sha256) move(from, to Op) {
	if s.words == nil {
		VMOVDQU(from, to)
	} else {
		VMOVDQU32(from, to)
	}
}

// word is where word t of the message schedule is.
func (s *sha256) word(t int) Op {
	if s.words == nil {
		return s.frame.at(t % 16)
	}
	return s.words[t%16]
}

// sigma sets to to the exclusive or of x rotated to the right by the first two
// numbers of bits and, by the third one, rotated or shifted. It needs two
// more registers.
func (s *sha256) sigma(x Op, to, t1, t2 reg.VecPhysical, by [3]uint64, shift bool) {
	if s.words != nil {
		VPRORD(Imm(by[0]), x, to)
		VPRORD(Imm(by[1]), x, t1)
		if shift {
			VPSRLD(Imm(by[2]), x, t2)
		} else {
			VPRORD(Imm(by[2]), x, t2)
		}
		VPTERNLOGD(Imm(ternaryXor), t1, t2, to)
		return
	}
	VPSRLD(Imm(by[2]), x, to)
	for i, n := range by {
		if i < 2 {
			VPSRLD(Imm(n), x, t1)
			VPXOR(t1, to, to)
		}
		if i < 2 || !shift {
			VPSLLD(Imm(32-n), x, t2)
			VPXOR(t2, to, to)
		}
	}
}

// round is one of step 3 of FIPS 180-4, section 6.2.2, "SHA-256 Hash
// Computation". Variables are not moved: each has the register of the one
// before it a round later.
func (s *sha256) round(t int) {
	Commentf("Round %d of 16.", t)
	at := func(i int) reg.VecPhysical { return s.v[(i+64-t)%8] }
	a, b, c, d, e, f, g, h := at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)
	tmp := s.v[8:16]
	k := Mem{Base: s.k}.Offset(4 * t)
	VPADDD(s.word(t), h, h)
	if s.words == nil {
		VPBROADCASTD(k, tmp[0])
		VPADDD(tmp[0], h, h)
		VPXOR(f, g, tmp[3])
		VPAND(e, tmp[3], tmp[3])
		VPXOR(g, tmp[3], tmp[3])
	} else {
		VPADDD_BCST(k, h, h)
		VMOVDQA32(e, tmp[3])
		VPTERNLOGD(Imm(ternaryChoose), g, f, tmp[3])
	}
	s.sigma(e, tmp[0], tmp[1], tmp[2], [3]uint64{6, 11, 25}, false)
	VPADDD(tmp[3], h, h)
	VPADDD(tmp[0], h, h)
	VPADDD(h, d, d)
	if s.words == nil {
		// Maj(a, b, c) = b ^ (a^b)&(b^c), and a^b is b^c a round later.
		ab, bc := tmp[7-t%2], tmp[6+t%2]
		VPXOR(a, b, ab)
		VPAND(ab, bc, bc)
		VPXOR(b, bc, bc)
		VPADDD(bc, h, h)
		s.sigma(a, tmp[0], tmp[1], tmp[2], [3]uint64{2, 13, 22}, false)
		VPADDD(tmp[0], h, h)
		return
	}
	s.sigma(a, tmp[4], tmp[5], tmp[6], [3]uint64{2, 13, 22}, false)
	VMOVDQA32(a, tmp[7])
	VPTERNLOGD(Imm(ternaryMajority), c, b, tmp[7])
	VPADDD(tmp[7], tmp[4], tmp[4])
	VPADDD(tmp[4], h, h)
}

// extend makes word t+16 of the message schedule, in the place of word t.
func (s *sha256) extend(t int) {
	tmp := s.v[8:16]
	at := func(i int, r reg.VecPhysical) Op { // shifts by AVX2 want a register
		if s.words == nil {
			s.move(s.word(i), r)
			return r
		}
		return s.word(i)
	}
	s.sigma(at(t+1, tmp[4]), tmp[0], tmp[1], tmp[2], [3]uint64{7, 18, 3}, true)
	if s.words == nil {
		VPADDD(s.word(t), tmp[0], tmp[0])
		VPADDD(s.word(t+9), tmp[0], tmp[0])
		s.sigma(at(t+14, tmp[5]), tmp[3], tmp[1], tmp[2], [3]uint64{17, 19, 10}, true)
		VPADDD(tmp[3], tmp[0], tmp[0])
		s.move(tmp[0], s.word(t))
		return
	}
	w := s.word(t)
	VPADDD(s.word(t+9), w, w)
	s.sigma(s.word(t+14), tmp[3], tmp[4], tmp[5], [3]uint64{17, 19, 10}, true)
	VPADDD(tmp[0], w, w)
	VPADDD(tmp[3], w, w)
}

// load16 transposes the next block of 16 messages into the message schedule.
func (s *sha256) load16() {
	p := GP64()
	for i := range 16 {
		MOVQ(Mem{Base: s.msgs}.Offset(8*i), p)
		VMOVDQU32(Mem{Base: p, Index: s.off, Scale: 1}, z[i])
	}
	for i := range 8 {
		VPUNPCKLDQ(z[2*i+1], z[2*i], z[16+2*i])
		VPUNPCKHDQ(z[2*i+1], z[2*i], z[17+2*i])
	}
	// z[4*g+j]: word j of each quarter of messages 4g to 4g+3.
	for g := range 4 {
		for j := range 2 {
			VPUNPCKLQDQ(z[16+4*g+j+2], z[16+4*g+j], z[4*g+2*j])
			VPUNPCKHQDQ(z[16+4*g+j+2], z[16+4*g+j], z[4*g+2*j+1])
		}
	}
	VMOVDQU32(s.swap, z[31])
	for i := range 16 {
		VPSHUFB(z[31], z[i], z[i])
	}
	for j := range 4 {
		// The quarters 0 and 2, 1 and 3 of messages 0 to 7; of 8 to 15.
		a, b, c, d := z[20+j], z[j], z[28+j], z[8+j]
		VSHUFI32X4(Imm(0x88), z[4+j], z[j], a)
		VSHUFI32X4(Imm(0xdd), z[4+j], z[j], b)
		VSHUFI32X4(Imm(0x88), z[12+j], z[8+j], c)
		VSHUFI32X4(Imm(0xdd), z[12+j], z[8+j], d)
		VSHUFI32X4(Imm(0x88), c, a, s.word(j))
		VSHUFI32X4(Imm(0xdd), c, a, s.word(8+j))
		VSHUFI32X4(Imm(0x88), d, b, s.word(4+j))
		VSHUFI32X4(Imm(0xdd), d, b, s.word(12+j))
	}
}

// load8 does so for 8 messages, four words at a time.
func (s *sha256) load8() {
	var p [8]reg.Register
	for i := range p {
		p[i] = GP64()
		MOVQ(Mem{Base: s.msgs}.Offset(8*i), p[i])
	}
	swap := y[8]
	VMOVDQU(s.swap, swap)
	for t := 0; t < 16; t += 4 {
		r := y[t/4%2*4:][:4] // messages i and i+4
		for i := range r {
			from := func(i int) Mem { return Mem{Base: p[i], Index: s.off, Scale: 1}.Offset(4 * t) }
			VMOVDQU(from(i), x[t/4%2*4+i])
			VINSERTI128(Imm(1), from(i+4), r[i], r[i])
			VPSHUFB(swap, r[i], r[i])
		}
		w := y[9:13]
		VPUNPCKLDQ(r[1], r[0], w[0])
		VPUNPCKHDQ(r[1], r[0], w[1])
		VPUNPCKLDQ(r[3], r[2], w[2])
		VPUNPCKHDQ(r[3], r[2], w[3])
		for j, f := range []func(...Op){VPUNPCKLQDQ, VPUNPCKHQDQ} {
			for i := range 2 {
				if s.words != nil {
					f(w[2+i], w[i], s.word(t+2*i+j))
					continue
				}
				f(w[2+i], w[i], r[2*i+j])
				s.move(r[2*i+j], s.word(t+2*i+j))
			}
		}
	}
}
