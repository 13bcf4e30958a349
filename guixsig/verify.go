package guixsig

import (
	"bytes"
	"math/big"
	"slices"
	"sync"
	"sync/atomic"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// tableAfter is at which verification under a key a table is made for it: that
// costs as much as some ten verifications save.
const tableAfter = 10

// verifier is the point of a public key and what speeds up many verifications
// under it, none of which is secret. It is safe for concurrent use.
type verifier struct {
	q     *edwards25519.Point
	uses  atomic.Int32
	once  sync.Once
	table *table // nil before once
}

// verify checks r and s, neither of which is zero (FIPS 186-4, section 6.4).
func (v *verifier) verify(digest [32]byte, r, s *edwards25519.Scalar) bool {
	h := bits2int(digest)
	w := inverse(s)
	u1 := edwards25519.NewScalar().Multiply(scalarBE(h[:]), w)
	u2 := edwards25519.NewScalar().Multiply(r, w)
	if v.uses.Load() < tableAfter && v.uses.Add(1) < tableAfter {
		p := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(u2, v.q, u1)
		x, _, z, _ := p.ExtendedCoordinates()
		return isAbscissa(r, x, z)
	}
	v.once.Do(func() { v.table = newTable(v.q) })
	p := new(sum).zero()
	baseTable().addMultiple(p, u1)
	v.table.addMultiple(p, u2)
	return isAbscissa(r, &p.x, &p.z)
}

// order returns the group's order.
var order = sync.OnceValue(func() *big.Int {
	n, _ := new(big.Int).SetString("1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed", 16)
	return n
})

// inverse returns the inverse of a scalar that is not zero, in time that depends
// on it.
func inverse(s *edwards25519.Scalar) *edwards25519.Scalar {
	b := s.Bytes()
	slices.Reverse(b)
	x := new(big.Int).SetBytes(b)
	x.ModInverse(x, order()).FillBytes(b)
	slices.Reverse(b)
	inv, err := edwards25519.NewScalar().SetCanonicalBytes(b)
	if err != nil {
		panic(err) // it is less than the order
	}
	return inv
}

// multiples are those of the order that are less than the field's prime, as
// elements, and the greatest number to which the last can be added so that the
// sum is less than that too.
type multiples struct {
	all  [8]field.Element
	room [keySize]byte // big-endian
}

var orders = sync.OnceValue(func() *multiples {
	m := new(multiples)
	be := make([]byte, keySize)
	k := new(big.Int)
	for i := range m.all {
		new(big.Int).Mul(order(), big.NewInt(int64(i))).FillBytes(be)
		slices.Reverse(be)
		if _, err := m.all[i].SetBytes(be); err != nil {
			panic(err) // never of 32 bytes
		}
	}
	prime := new(big.Int).Sub(k.Lsh(big.NewInt(1), 255), big.NewInt(19))
	last := new(big.Int).Mul(order(), big.NewInt(int64(len(m.all)-1)))
	last.Sub(prime, last)
	last.Sub(last, big.NewInt(1)).FillBytes(m.room[:])
	return m
})

// isAbscissa reports whether x/z, taken as a number, is r modulo the group's
// order: whether x is r·z, or (r+order)·z, and so on, which saves dividing.
func isAbscissa(r *edwards25519.Scalar, x, z *field.Element) bool {
	m := orders()
	be := r.Bytes()
	var number, product field.Element
	if _, err := number.SetBytes(be); err != nil {
		panic(err) // never of 32 bytes
	}
	slices.Reverse(be)
	all := m.all[:]
	if bytes.Compare(be, m.room[:]) > 0 {
		all = all[:len(all)-1]
	}
	for i := range all {
		product.Add(&number, &all[i])
		if product.Multiply(&product, z).Equal(x) == 1 {
			return true
		}
	}
	return false
}
