package guixsig

import (
	"sync"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// The windows of a table: 43 of 6 bits are more than the 253 of a scalar, so
// that nothing is carried out of the last one.
const (
	windowBits = 6
	windows    = 43
)

// table has (i+1)·64^w times a point at [w][i], 220 KB in all: to multiply the
// point by a number takes one addition per window then, and no doubling.
type table [windows][1 << (windowBits - 1)]addend

// baseTable returns the table of the curve's base point.
var baseTable = sync.OnceValue(func() *table { return newTable(edwards25519.NewGeneratorPoint()) })

func newTable(q *edwards25519.Point) *table {
	t := new(table)
	base, p := new(edwards25519.Point).Set(q), new(edwards25519.Point)
	for w := range t {
		p.Set(base)
		for i := range t[w] {
			if i > 0 {
				p.Add(p, base)
			}
			t[w][i].set(p)
		}
		base.Add(p, p)
	}
	return t
}

// addMultiple adds u times the table's point to p, in time that depends on u.
func (t *table) addMultiple(p *sum, u *edwards25519.Scalar) {
	const size = 1 << windowBits
	le := u.Bytes()
	bits, have, carry := uint(0), 0, 0
	for w := range t {
		for have < windowBits && len(le) > 0 {
			bits |= uint(le[0]) << have
			le, have = le[1:], have+8
		}
		digit := int(bits%size) + carry
		bits, have, carry = bits>>windowBits, have-windowBits, 0
		if digit > size/2 {
			digit, carry = digit-size, 1
		}
		switch {
		case digit > 0:
			p.add(&t[w][digit-1])
		case digit < 0:
			p.subtract(&t[w][-digit-1])
		}
	}
}

// sum is a point in extended coordinates, x = X/Z, y = Y/Z, xy = T/Z (Hisil,
// Wong, Carter and Dawson, "Twisted Edwards Curves Revisited", section 3).
type sum struct{ x, y, z, t field.Element }

// addend is a point as additions need it.
type addend struct{ plus, minus, z2, t2d field.Element } // Y+X, Y-X, 2Z, 2dT

// twoD returns 2d, d being the curve's constant, -121665/121666.
var twoD = sync.OnceValue(func() *field.Element {
	one := new(field.Element).One()
	n, d := new(field.Element).Mult32(one, 121665), new(field.Element).Mult32(one, 121666)
	n.Multiply(n.Negate(n), d.Invert(d))
	return n.Add(n, n)
})

func (a *addend) set(p *edwards25519.Point) {
	x, y, z, t := p.ExtendedCoordinates()
	a.plus.Add(y, x)
	a.minus.Subtract(y, x)
	a.z2.Add(z, z)
	a.t2d.Multiply(t, twoD())
}

func (s *sum) zero() *sum {
	s.x.Zero()
	s.y.One()
	s.z.One()
	s.t.Zero()
	return s
}

// add adds a to s (the same, section 3.1, which holds for all points).
func (s *sum) add(a *addend) {
	var c field.Element
	s.step(&a.plus, &a.minus, c.Multiply(&s.t, &a.t2d), &a.z2)
}

// subtract adds the negative of a, whose x has the other sign, to s.
func (s *sum) subtract(a *addend) {
	var c field.Element
	c.Multiply(&s.t, &a.t2d)
	s.step(&a.minus, &a.plus, c.Negate(&c), &a.z2)
}

func (s *sum) step(plus, minus, c, z2 *field.Element) {
	var a, b, d, e, f, g, h field.Element
	a.Subtract(&s.y, &s.x)
	a.Multiply(&a, minus)
	b.Add(&s.y, &s.x)
	b.Multiply(&b, plus)
	d.Multiply(&s.z, z2)
	e.Subtract(&b, &a)
	f.Subtract(&d, c)
	g.Add(&d, c)
	h.Add(&b, &a)
	s.x.Multiply(&e, &f)
	s.y.Multiply(&g, &h)
	s.t.Multiply(&e, &h)
	s.z.Multiply(&f, &g)
}
