package guixsig

import (
	"crypto/hmac"
	"crypto/sha256"
	"slices"

	"filippo.io/edwards25519"
)

// order bits: the group's order has 253 bits, a digest 256.
const excess = 3

// bits2int is RFC 6979, section 2.3.2, for 32 bytes: the leftmost 253 bits as
// a big-endian number.
func bits2int(b [32]byte) (out [32]byte) {
	var carry byte
	for i, c := range b {
		out[i] = carry | c>>excess
		carry = c << (8 - excess)
	}
	return out
}

// nonces yields RFC 6979's candidates (section 3.2) that lie in the group.
type nonces struct{ k, v [32]byte }

// newNonces begins with the private number as it is, not reduced: libgcrypt's
// keys are larger than the order.
func newNonces(d [keySize]byte, digest [32]byte) *nonces {
	h := bits2int(digest)
	z := scalarBE(h[:]).Bytes() // bits2octets: reduced
	slices.Reverse(z)
	n := &nonces{}
	for i := range n.v {
		n.v[i] = 1
	}
	n.update(0, d[:], z)
	n.update(1, d[:], z)
	return n
}

func (n *nonces) update(tag byte, more ...[]byte) {
	m := hmac.New(sha256.New, n.k[:])
	m.Write(n.v[:])
	m.Write([]byte{tag})
	for _, b := range more {
		m.Write(b)
	}
	m.Sum(n.k[:0])
	n.step()
}

func (n *nonces) step() {
	m := hmac.New(sha256.New, n.k[:])
	m.Write(n.v[:])
	m.Sum(n.v[:0])
}

func (n *nonces) next() *edwards25519.Scalar {
	for {
		n.step()
		t := bits2int(n.v)
		slices.Reverse(t[:])
		k, err := edwards25519.NewScalar().SetCanonicalBytes(t[:])
		if err == nil && k.Equal(edwards25519.NewScalar()) == 0 {
			return k
		}
		n.update(0)
	}
}

// sign returns r and s.
func (k *PrivateKey) sign(digest [32]byte) (r, s *edwards25519.Scalar) {
	h := bits2int(digest)
	z := scalarBE(h[:])
	zero := edwards25519.NewScalar()
	gen := newNonces(k.d, digest)
	for {
		nonce := gen.next()
		r = abscissa(new(edwards25519.Point).ScalarBaseMult(nonce))
		s = edwards25519.NewScalar().MultiplyAdd(r, k.scalar, z)
		s.Multiply(s, edwards25519.NewScalar().Invert(nonce))
		if r.Equal(zero) == 0 && s.Equal(zero) == 0 {
			return r, s
		}
		gen.update(0)
	}
}

// abscissa returns the point's affine x modulo the group's order.
func abscissa(p *edwards25519.Point) *edwards25519.Scalar {
	x, _, z, _ := p.ExtendedCoordinates()
	x.Multiply(x, z.Invert(z))
	b := x.Bytes()
	slices.Reverse(b)
	return scalarBE(b)
}
