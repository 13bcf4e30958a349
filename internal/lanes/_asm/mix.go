package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// mixer mixes a state of 16 words as ChaCha20 does, and BLAKE2b after it: by
// additions, rotations and exclusive ors. A vector has the same word of all
// lanes.
type mixer struct {
	v         []reg.VecPhysical // the state
	plus, xor func(a, b, to Op)
	move      func(from, to Op)
	rotate    func(by int, v reg.VecPhysical)
	// spill says that v8 is in the frame, at v8, whenever nothing is done with
	// it. Sixteen registers are just the state, and a rotation by shifts needs
	// one more; v8's is the one.
	spill bool
	v8    Mem
}

// columns and diagonals are the quadruples that are mixed at a time, in halves
// of a round.
var (
	columns   = [][4]int{{0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14}, {3, 7, 11, 15}}
	diagonals = [][4]int{{0, 5, 10, 15}, {1, 6, 11, 12}, {2, 7, 8, 13}, {3, 4, 9, 14}}
)

// half mixes quadruples: "The ChaCha Quarter Round" (RFC 8439, section
// 2.1), "Mixing Function G" (RFC 7693, section 3.1). Each is two times the same, with
// the given rotations of d and b. Before each of both, add(i, a) may add the
// next word of a message to the a of quadruple i/2; it is nil for ChaCha20.
//
// The quadruples do not depend on each other. Each is an instruction behind the
// one before it, so that additions, which have more ports, are beside
// rotations: 2 to 5 % faster than all in step.
func (m *mixer) half(quads [][4]int, rotations [2][2]int, add func(i int, a reg.VecPhysical)) {
	chains := make([][]func(), len(quads))
	for i, q := range quads {
		a, b, c, d := m.v[q[0]], m.v[q[1]], m.v[q[2]], m.v[q[3]]
		then := func(f ...func()) { chains[i] = append(chains[i], f...) }
		for k, by := range rotations {
			if add != nil {
				then(func() { add(2*i+k, a) })
			}
			then(
				func() { m.plus(b, a, a) },
				func() { m.xor(a, d, d) },
				func() { m.rotate(by[0], d) })
			if m.spill && q[2] == 8 {
				then(func() { // in one, for others use the register
					m.plus(m.v8, d, c)
					m.xor(c, b, b)
					m.move(c, m.v8)
				})
			} else {
				then(
					func() { m.plus(d, c, c) },
					func() { m.xor(c, b, b) })
			}
			then(func() { m.rotate(by[1], b) })
		}
	}
	for n, more := 0, true; more; n++ {
		more = false
		for i, c := range chains {
			if k := n - i; k < len(c) {
				more = true
				if k >= 0 {
					c[k]()
				}
			}
		}
	}
}

// turns returns the constant that VPSHUFB needs to rotate words of size bytes
// to the right by a number of bytes, for 32 bytes.
func turns(name string, size, by int) Mem {
	var w [4]uint64
	for i := range 32 {
		w[i/8] |= uint64(i%16/size*size+(i%size+by)%size) << (i % 8 * 8)
	}
	return words(name, w[:]...)
}
