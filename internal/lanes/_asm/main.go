// Command asm writes the assembly of package lanes for amd64. It is a module
// of its own, so that the project does not depend on avo. See "go generate" in
// the package.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("!purego")
	blake2bAVX2()
	blake2bEVEX("blake2bAVX512VL", 4, y)
	blake2bEVEX("blake2bAVX512", 8, z)
	chacha20AVX2()
	chacha20SSSE3()
	chacha20AVX512()
	shaKernels()
	hasSHA()
	Generate()
}

var (
	x = []reg.VecPhysical{
		reg.X0, reg.X1, reg.X2, reg.X3, reg.X4, reg.X5, reg.X6, reg.X7, reg.X8, reg.X9, reg.X10, reg.X11, reg.X12, reg.X13, reg.X14, reg.X15,
		reg.X16, reg.X17, reg.X18, reg.X19, reg.X20, reg.X21, reg.X22, reg.X23, reg.X24, reg.X25, reg.X26, reg.X27, reg.X28, reg.X29, reg.X30, reg.X31,
	}
	y = []reg.VecPhysical{
		reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7, reg.Y8, reg.Y9, reg.Y10, reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15,
		reg.Y16, reg.Y17, reg.Y18, reg.Y19, reg.Y20, reg.Y21, reg.Y22, reg.Y23, reg.Y24, reg.Y25, reg.Y26, reg.Y27, reg.Y28, reg.Y29, reg.Y30, reg.Y31,
	}
	z = []reg.VecPhysical{
		reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
		reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23, reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31,
	}
)

// area is a place in the frame for vectors of one size, aligned to it.
type area struct {
	base Mem
	size int
}

func (a area) at(i int) Mem { return a.base.Offset(i * a.size) }

// frame reserves n vectors of size bytes. Go aligns a frame to 8 bytes, and a
// vector that lies in two cache lines costs twice.
func frame(n, size int) area {
	local := AllocLocal((n + 1) * size)
	p := GP64()
	LEAQ(local.Offset(size-1), p)
	ANDQ(I32(-size), p)
	return area{Mem{Base: p}, size}
}

// words puts constants into read-only data.
func words(name string, v ...uint64) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	for i, w := range v {
		DATA(8*i, U64(w))
	}
	return m
}

// constant returns what another function has put there.
func constant(name string) Mem { return NewDataAddr(Symbol{Name: name, Static: true}, 0) }
