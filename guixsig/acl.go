package guixsig

import (
	"errors"
	"fmt"
	"slices"

	"ersatz/sexp"
)

// ACL is the list of keys whose signatures a machine accepts, /etc/guix/acl
// (Guix 1.5.0, guix/pki.scm). The zero ACL accepts nothing.
type ACL struct{ keys []PublicKey }

// importTag is the one tag that Guix knows.
var importTag = sexp.List(sexp.Atom("tag"), sexp.List(sexp.Atom("guix"), sexp.Atom("import")))

// ParseACL reads an (acl (entry KEY (tag (guix import))) …) expression. As in
// Guix, an entry with another tag makes the whole ACL an error.
func ParseACL(text []byte) (ACL, error) {
	n, err := sexp.Parse(text)
	if err != nil {
		return ACL{}, fmt.Errorf("guixsig: ACL: %w", err)
	}
	if n.Head() != "acl" {
		return ACL{}, errors.New("guixsig: ACL: not an (acl …) expression")
	}
	var acl ACL
	for i, entry := range n.List[1:] {
		if entry.Head() != "entry" || len(entry.List) != 3 || !entry.List[2].Equal(importTag) {
			return ACL{}, fmt.Errorf("guixsig: ACL: entry %d is not (entry KEY (tag (guix import)))", i+1)
		}
		key, err := publicKey(entry.List[1])
		if err != nil {
			return ACL{}, fmt.Errorf("ACL: entry %d: %w", i+1, err)
		}
		acl.keys = append(acl.keys, key)
	}
	return acl, nil
}

// Authorizes reports whether the ACL has the key.
func (a ACL) Authorizes(k PublicKey) bool { return slices.ContainsFunc(a.keys, k.Equal) }

// Keys returns the keys in order.
func (a ACL) Keys() []PublicKey { return slices.Clone(a.keys) }

// Add returns an ACL that has the key too.
func (a ACL) Add(k PublicKey) ACL {
	if a.Authorizes(k) {
		return a
	}
	return ACL{append(slices.Clip(a.keys), k)}
}

// Text returns the ACL as libgcrypt prints it.
func (a ACL) Text() []byte {
	n := sexp.List(sexp.Atom("acl"))
	for _, k := range a.keys {
		n.List = append(n.List, sexp.List(sexp.Atom("entry"), k.node, importTag))
	}
	return n.Advanced()
}
