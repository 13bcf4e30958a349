// Package guixsig makes and checks the signatures of Guix: ECDSA (FIPS 186-4,
// section 6.4) with RFC 6979 nonces over SHA-256, on the twisted Edwards curve
// that libgcrypt calls Ed25519. It is not EdDSA. Keys, signatures and the ACL
// are S-expressions (Guix 1.5.0, guix/pki.scm; libgcrypt manual, "Public Key
// cryptography").
//
// Signing runs in time independent of the key; verification does not.
package guixsig

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/edwards25519"

	"ersatz/sexp"
)

const keySize = 32 // bytes of a public key's point and of a private key's number

// PublicKey is a public key as an S-expression. Keys of other algorithms (Guix
// allows RSA and DSA) are read and compared too, so that an ACL may hold them;
// nothing verifies under them here.
type PublicKey struct {
	node  sexp.Node
	ecdsa *verifier // nil for another algorithm
}

// ParsePublicKey reads a (public-key …) expression.
func ParsePublicKey(text []byte) (PublicKey, error) {
	n, err := sexp.Parse(text)
	if err != nil {
		return PublicKey{}, fmt.Errorf("guixsig: public key: %w", err)
	}
	return publicKey(n)
}

func publicKey(n sexp.Node) (PublicKey, error) {
	if n.Head() != "public-key" || len(n.List) != 2 || !n.List[1].IsList() {
		return PublicKey{}, errors.New("guixsig: not a (public-key …) expression")
	}
	k := PublicKey{node: n}
	ecc, ok := n.Find("ecc")
	if !ok {
		return k, nil
	}
	curve, _ := ecc.Value("curve")
	if string(curve) != "Ed25519" {
		return k, nil
	}
	q, ok := ecc.Value("q")
	if !ok {
		return PublicKey{}, errors.New("guixsig: public key without q")
	}
	point, err := decodePoint(q)
	if err != nil {
		return PublicKey{}, fmt.Errorf("guixsig: public key: %w", err)
	}
	k.ecdsa = &verifier{q: point}
	return k, nil
}

// decodePoint reads a point in its one canonical form of 32 bytes. Points of
// low order, under which one signature fits many texts, are refused.
func decodePoint(q []byte) (*edwards25519.Point, error) {
	if len(q) != keySize {
		return nil, fmt.Errorf("q has %d bytes, not %d", len(q), keySize)
	}
	p, err := new(edwards25519.Point).SetBytes(q)
	if err != nil || !bytes.Equal(p.Bytes(), q) {
		return nil, errors.New("q is not a point of the curve")
	}
	if new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return nil, errors.New("q has low order")
	}
	return p, nil
}

// Text returns the key as libgcrypt prints it.
func (k PublicKey) Text() []byte { return k.node.Advanced() }

// String returns a name for messages: "ed25519:" and the point in hexadecimal.
func (k PublicKey) String() string {
	if k.ecdsa == nil {
		if len(k.node.List) == 2 {
			return k.node.List[1].Head() + " key"
		}
		return "no key"
	}
	return "ed25519:" + strings.ToUpper(hex.EncodeToString(k.ecdsa.q.Bytes()))
}

// Equal reports whether both are the same expression; white space and the
// spelling of atoms do not count.
func (k PublicKey) Equal(l PublicKey) bool { return k.node.Equal(l.node) }

// PrivateKey signs.
type PrivateKey struct {
	public PublicKey
	d      [keySize]byte // big-endian, not reduced: RFC 6979 hashes it as it is
	scalar *edwards25519.Scalar
}

// GenerateKey makes a key from 32 bytes of rand, clamped as libgcrypt does.
func GenerateKey(rand io.Reader) (*PrivateKey, error) {
	var d [keySize]byte
	if _, err := io.ReadFull(rand, d[:]); err != nil {
		return nil, fmt.Errorf("guixsig: generating a key: %w", err)
	}
	d[0] = d[0]&0x7f | 0x40
	d[keySize-1] &= 0xf8
	return newPrivateKey(d)
}

func newPrivateKey(d [keySize]byte) (*PrivateKey, error) {
	k := &PrivateKey{d: d, scalar: scalarBE(d[:])}
	if k.scalar.Equal(edwards25519.NewScalar()) == 1 {
		return nil, errors.New("guixsig: private key is zero")
	}
	k.public.ecdsa = &verifier{q: new(edwards25519.Point).ScalarBaseMult(k.scalar)}
	k.public.node = sexp.List(sexp.Atom("public-key"), sexp.List(sexp.Atom("ecc"), k.curve(), k.q()))
	return k, nil
}

func (k *PrivateKey) curve() sexp.Node {
	return sexp.List(sexp.Atom("curve"), sexp.Atom("Ed25519"))
}

func (k *PrivateKey) q() sexp.Node {
	return sexp.List(sexp.Atom("q"), sexp.Bytes(k.public.ecdsa.q.Bytes()))
}

// ParsePrivateKey reads a (private-key …) expression, as in a signing-key.sec.
func ParsePrivateKey(text []byte) (*PrivateKey, error) {
	n, err := sexp.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("guixsig: private key: %w", err)
	}
	ecc, ok := n.Find("ecc")
	if n.Head() != "private-key" || !ok {
		return nil, errors.New("guixsig: not a (private-key (ecc …)) expression")
	}
	curve, _ := ecc.Value("curve")
	if string(curve) != "Ed25519" {
		return nil, fmt.Errorf("guixsig: private key on curve %q, not Ed25519", curve)
	}
	number, ok := ecc.Value("d")
	number = bytes.TrimLeft(number, "\x00")
	if !ok || len(number) > keySize {
		return nil, errors.New("guixsig: private key without d of 32 bytes")
	}
	var d [keySize]byte
	copy(d[keySize-len(number):], number)
	k, err := newPrivateKey(d)
	if err != nil {
		return nil, err
	}
	if q, ok := ecc.Value("q"); !ok || !bytes.Equal(q, k.public.ecdsa.q.Bytes()) {
		return nil, errors.New("guixsig: private key: q does not belong to d")
	}
	return k, nil
}

// Public returns the public key.
func (k *PrivateKey) Public() PublicKey { return k.public }

// Text returns the key as libgcrypt prints it. It is secret.
func (k *PrivateKey) Text() []byte {
	d := sexp.List(sexp.Atom("d"), sexp.Bytes(k.d[:]))
	return sexp.List(sexp.Atom("private-key"), sexp.List(sexp.Atom("ecc"), k.curve(), k.q(), d)).Advanced()
}

// scalarBE returns a big-endian number modulo the group's order.
func scalarBE(b []byte) *edwards25519.Scalar {
	wide := make([]byte, 64)
	copy(wide, b)
	slices.Reverse(wide[:len(b)])
	s, err := edwards25519.NewScalar().SetUniformBytes(wide)
	if err != nil {
		panic(err) // 64 bytes are never refused
	}
	return s
}
