package guixsig

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"filippo.io/edwards25519"

	"ersatz/sexp"
)

// ErrBadSignature means that a signature is not by the key that it names.
var ErrBadSignature = errors.New("guixsig: bad signature")

// MaxSignature bounds the text of a signature, in bytes: one by an RSA key of
// 8,192 bits has 5,000. It comes from servers that nobody has verified yet.
const MaxSignature = 16 << 10

// Signature is a (signature …) expression: what was signed, by which key, and
// the two numbers.
type Signature struct {
	node   sexp.Node
	digest []byte
	key    PublicKey
	r, s   *edwards25519.Scalar // nil for a key of another algorithm
}

// Sign signs a SHA-256.
func (k *PrivateKey) Sign(digest [32]byte) Signature {
	r, s := k.sign(digest)
	number := func(name string, v *edwards25519.Scalar) sexp.Node {
		b := v.Bytes()
		slices.Reverse(b)
		// libgcrypt prints numbers without leading zero bytes.
		return sexp.List(sexp.Atom(name), sexp.Bytes(bytes.TrimLeft(b, "\x00")))
	}
	n := sexp.List(sexp.Atom("signature"),
		sexp.List(sexp.Atom("data"),
			sexp.List(sexp.Atom("flags"), sexp.Atom("rfc6979")),
			sexp.List(sexp.Atom("hash"), sexp.Atom("sha256"), sexp.Bytes(digest[:]))),
		sexp.List(sexp.Atom("sig-val"),
			sexp.List(sexp.Atom("ecdsa"), number("r", r), number("s", s))),
		k.public.node)
	return Signature{node: n, digest: bytes.Clone(digest[:]), key: k.public, r: r, s: s}
}

// ParseSignature reads a (signature …) expression. It does not verify it.
func ParseSignature(text []byte) (Signature, error) { return ACL{}.ParseSignature(text) }

// ParseSignature is the function of that name for who verifies many signatures
// by the keys of the ACL: what is computed of a key is computed once.
func (a ACL) ParseSignature(text []byte) (Signature, error) {
	if len(text) > MaxSignature {
		return Signature{}, fmt.Errorf("guixsig: signature: text of %d bytes, limit %d", len(text), MaxSignature)
	}
	n, err := sexp.Parse(text)
	if err != nil {
		return Signature{}, fmt.Errorf("guixsig: signature: %w", err)
	}
	data, _ := n.Find("data")
	hash, ok := data.Find("hash")
	if n.Head() != "signature" || !ok || len(hash.List) != 3 || hash.List[2].IsList() {
		return Signature{}, errors.New("guixsig: not a (signature (data … (hash …)) …) expression")
	}
	sig := Signature{node: n, digest: hash.List[2].Atom}
	key, ok := n.Find("public-key")
	if !ok {
		return Signature{}, errors.New("guixsig: signature without public key")
	}
	if i := slices.IndexFunc(a.keys, func(k PublicKey) bool { return k.node.Equal(key) }); i >= 0 {
		sig.key = a.keys[i]
	} else if sig.key, err = publicKey(key); err != nil {
		return Signature{}, err
	}
	if sig.key.ecdsa == nil {
		return sig, nil
	}
	val, _ := n.Find("sig-val")
	ecdsa, ok := val.Find("ecdsa")
	if !ok {
		return Signature{}, errors.New("guixsig: signature without (sig-val (ecdsa …))")
	}
	if sig.r, err = number(ecdsa, "r"); err != nil {
		return Signature{}, err
	}
	sig.s, err = number(ecdsa, "s")
	return sig, err
}

// number reads r or s, which lies between 1 and the group's order.
func number(ecdsa sexp.Node, name string) (*edwards25519.Scalar, error) {
	b, ok := ecdsa.Value(name)
	b = bytes.TrimLeft(b, "\x00")
	if !ok || len(b) == 0 || len(b) > keySize {
		return nil, fmt.Errorf("guixsig: signature: %s is no number between 1 and the group's order", name)
	}
	var le [keySize]byte
	copy(le[:], b)
	slices.Reverse(le[:len(b)])
	v, err := edwards25519.NewScalar().SetCanonicalBytes(le[:])
	if err != nil {
		return nil, fmt.Errorf("guixsig: signature: %s is no number between 1 and the group's order", name)
	}
	return v, nil
}

// Text returns the signature as libgcrypt prints it.
func (s Signature) Text() []byte { return s.node.Advanced() }

// Key returns the key that the signature says it is by.
func (s Signature) Key() PublicKey { return s.key }

// Digest returns the hash that the signature says it is over. Whether the
// signed text has that hash is for the caller to check.
func (s Signature) Digest() []byte { return s.digest }

// Verify checks the signature over its own digest with its own key. The error
// matches ErrBadSignature.
func (s Signature) Verify() error {
	switch {
	case s.key.ecdsa == nil:
		return fmt.Errorf("%w: keys like this (%s) are not supported", ErrBadSignature, s.key)
	case len(s.digest) != 32:
		return fmt.Errorf("%w: hash of %d bytes, not 32", ErrBadSignature, len(s.digest))
	case !s.key.ecdsa.verify([32]byte(s.digest), s.r, s.s):
		return fmt.Errorf("%w by %s", ErrBadSignature, s.key)
	}
	return nil
}
