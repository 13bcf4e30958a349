package main

import "fmt"

// quads are those of the generator.
var quads = [8][4]int{
	{0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14}, {3, 7, 11, 15},
	{0, 5, 10, 15}, {1, 6, 11, 12}, {2, 7, 8, 13}, {3, 4, 9, 14},
}

// Places in memory, from rdi on: the words of messages, v8, masks.
const (
	v8   = 512
	mask = 544
	// temporary is register 8, where v8 is not.
	temporary = 16
)

// step is an instruction; what it reads and writes is a bit for each word of
// the state and for the temporary register.
type step struct {
	reads, writes uint32
	code          []byte
}

// kernel has the steps of a round, by quadruples.
type kernel struct {
	rounds int     // that code has; those of ChaCha20 are a loop
	bytes  float64 // of 8 or 4 lanes in them
	chains [8][]step
}

func newKernel(blake2b bool) *kernel {
	k := &kernel{rounds: 1, bytes: 512.0 / 10}
	add, shift := byte(0xfe), byte(0x72) // of 32 bits
	by := [2]byte{12, 7}
	if blake2b {
		*k = kernel{rounds: 12, bytes: 512}
		add, shift = 0xd4, 0x73 // of 64
	}
	for i, q := range quads {
		a, b, c, d := q[0], q[1], q[2], q[3]
		then := func(code []byte, writes int, reads ...int) {
			s := step{writes: 1 << writes, code: code}
			for _, r := range reads {
				s.reads |= 1 << r
			}
			k.chains[i] = append(k.chains[i], s)
		}
		// turn rotates by shifts, or blake2b's by one bit.
		turn := func(left byte) {
			if blake2b {
				then(vex(1, 1, add, 8, b, b, -1), temporary, b)
				then(vex(1, 1, shift, 2, b, b, 63), b, b)
			} else {
				then(vex(1, 1, shift, 6, 8, b, int(left)), temporary, b)
				then(vex(1, 1, shift, 2, b, b, int(32-left)), b, b)
			}
			then(vex(1, 1, 0xeb, b, b, 8, -1), b, b, temporary)
		}
		for half := range 2 {
			if blake2b { // which word it is does not matter
				then(mem(1, 1, add, a, a, 32*(2*i+half)), a, a)
			}
			then(vex(1, 1, add, a, a, b, -1), a, a, b)
			then(vex(1, 1, 0xef, d, d, a, -1), d, d, a)
			if blake2b && half == 0 {
				then(vex(1, 1, 0x70, d, 0, d, 0xb1), d, d)
			} else {
				then(mem(2, 1, 0x00, d, d, mask+32*half), d, d)
			}
			if c == 8 {
				then(mem(1, 1, add, 8, d, v8), temporary, c, d)
				then(vex(1, 1, 0xef, b, b, 8, -1), b, b, temporary)
				then(mem(1, 2, 0x7f, 8, 0, v8), c, temporary)
			} else {
				then(vex(1, 1, add, c, c, d, -1), c, c, d)
				then(vex(1, 1, 0xef, b, b, c, -1), b, b, c)
			}
			if blake2b && half == 0 {
				then(mem(2, 1, 0x00, b, b, mask), b, b)
			} else {
				turn(by[half])
			}
		}
	}
	return k
}

// valid wants an order to have every step.
func (k *kernel) valid(order []byte) error {
	var n [8]int
	for _, c := range order {
		if c > 7 {
			return fmt.Errorf("a digit above 7")
		}
		n[c]++
	}
	for c := range n {
		if n[c] != len(k.chains[c]) {
			return fmt.Errorf("%d steps of quadruple %d, want %d", n[c], c, len(k.chains[c]))
		}
	}
	return nil
}

// move moves a step by some places, as far as what others read and write lets
// it.
func (k *kernel) move(order []byte, i, by int) {
	var n [8]int
	steps := make([]*step, len(order))
	for j, c := range order {
		steps[j] = &k.chains[c][n[c]]
		n[c]++
	}
	for by != 0 {
		j := i + 1
		if by < 0 {
			j = i - 1
		}
		if j < 0 || j >= len(order) || order[i] == order[j] {
			return
		}
		x, y := steps[i], steps[j]
		if x.writes&(y.reads|y.writes) != 0 || y.writes&x.reads != 0 {
			return
		}
		order[i], order[j] = order[j], order[i]
		steps[i], steps[j] = steps[j], steps[i]
		by -= j - i
		i = j
	}
}

// code is a function that runs the rounds rcx times.
func (k *kernel) code(order []byte) (b []byte) {
	for range k.rounds {
		var n [8]int
		for _, c := range order {
			b = append(b, k.chains[c][n[c]].code...)
			n[c]++
		}
	}
	b = append(b, 0x48, 0xff, 0xc9, 0x0f, 0x85) // dec rcx; jnz
	back := -(len(b) + 4)
	return append(b, byte(back), byte(back>>8), byte(back>>16), byte(back>>24), 0xc3)
}

// vex encodes an instruction of 256 bits: opcode map, prefix, opcode, ModRM.reg,
// VEX.vvvv, ModRM.rm, and an immediate unless it is negative (Intel's manual,
// volume 2, "VEX Encoded GPR Instructions" and "The VEX Prefix").
func vex(opmap, prefix, op byte, reg, v, rm, imm int) []byte {
	b := prefixed(opmap, prefix, op, reg, v, rm)
	b = append(b, byte(0xc0|reg&7<<3|rm&7))
	if imm >= 0 {
		b = append(b, byte(imm))
	}
	return b
}

// mem is vex with an operand in memory, from rdi on.
func mem(opmap, prefix, op byte, reg, v, at int) []byte {
	b := prefixed(opmap, prefix, op, reg, v, 0)
	if at < 128 {
		return append(b, byte(0x40|reg&7<<3|7), byte(at))
	}
	return append(b, byte(0x80|reg&7<<3|7), byte(at), byte(at>>8), 0, 0)
}

func prefixed(opmap, prefix, op byte, reg, v, rm int) []byte {
	r := byte(^reg&8) << 4
	last := byte(^v&15)<<3 | 4 | prefix
	if opmap == 1 && rm < 8 {
		return []byte{0xc5, r | last, op}
	}
	return []byte{0xc4, r | 0x40 | byte(^rm&8)<<2 | opmap, last, op}
}
