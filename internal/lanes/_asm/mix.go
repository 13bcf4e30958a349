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
	rotate    func(by int, v reg.VecPhysical) (steps []func())
	// spill says that v8 is in the frame, at v8, whenever nothing is done with
	// it. Sixteen registers are just the state, and a rotation by shifts needs
	// one more; v8's is the one.
	spill bool
	v8    Mem
	// order has a digit for each step of a round: the number of its quadruple. The
	// default is for a mixer that does not spill. See round.
	order string
}

// quads are the quadruples that are mixed in a round: columns, then diagonals.
var quads = [8][4]int{
	{0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14}, {3, 7, 11, 15},
	{0, 5, 10, 15}, {1, 6, 11, 12}, {2, 7, 8, 13}, {3, 4, 9, 14},
}

// chain is what mixes a quadruple: "The ChaCha Quarter Round" (RFC 8439,
// section 2.1), "Mixing Function G" (RFC 7693, section 3.1). It is two times the
// same, with the given rotations of d and b. Before each of both, add(k, a) may
// add a word of a message to a; it is nil for ChaCha20. A step is an
// instruction.
func (m *mixer) chain(q [4]int, rotations [2][2]int, add func(k int, a reg.VecPhysical)) (steps []func()) {
	a, b, c, d := m.v[q[0]], m.v[q[1]], m.v[q[2]], m.v[q[3]]
	then := func(f ...func()) { steps = append(steps, f...) }
	for k, by := range rotations {
		if add != nil {
			then(func() { add(k, a) })
		}
		then(
			func() { m.plus(b, a, a) },
			func() { m.xor(a, d, d) })
		then(m.rotate(by[0], d)...)
		if m.spill && q[2] == 8 {
			then(
				func() { m.plus(m.v8, d, c) },
				func() { m.xor(c, b, b) },
				func() { m.move(c, m.v8) })
		} else {
			then(
				func() { m.plus(d, c, c) },
				func() { m.xor(c, b, b) })
		}
		then(m.rotate(by[1], b)...)
	}
	return steps
}

// round mixes the columns and the diagonals; add gets the number of a word in
// the round.
//
// In what order the steps come matters, because the processor chooses a port for
// each instruction long before it runs, and shifts and shuffles have two of
// three. The four quadruples of each half do not depend on each other. By
// default each is an instruction behind the one before it: 2 to 5 % faster than
// all in step. One that ./order has found, by moving steps and measuring, is
// another 7 % faster; it is also what keeps the temporary register to one
// quadruple at a time.
func (m *mixer) round(rotations [2][2]int, add func(i int, a reg.VecPhysical)) {
	var chains [8][]func()
	for i, q := range quads {
		var word func(k int, a reg.VecPhysical)
		if add != nil {
			word = func(k int, a reg.VecPhysical) { add(2*i+k, a) }
		}
		chains[i] = m.chain(q, rotations, word)
	}
	order := m.order
	if order == "" {
		steps := len(chains[0])
		for half := 0; half < 8; half += 4 {
			for n := range steps + 3 {
				for i := max(0, n-steps+1); i <= min(n, 3); i++ {
					order += string(rune('0' + half + i))
				}
			}
		}
	}
	for _, i := range order {
		c := &chains[i-'0']
		(*c)[0]()
		*c = (*c)[1:]
	}
	for _, c := range chains {
		if len(c) > 0 {
			panic("an order without some of the steps")
		}
	}
}

// one is a rotation by one instruction.
func one(f func()) []func() { return []func(){f} }

// turns returns the constant that VPSHUFB needs to rotate words of size bytes
// to the right by a number of bytes, for 32 bytes.
func turns(name string, size, by int) Mem {
	var w [4]uint64
	for i := range 32 {
		w[i/8] |= uint64(i%16/size*size+(i%size+by)%size) << (i % 8 * 8)
	}
	return words(name, w[:]...)
}
