package node

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"ersatz/guixsig"
	"ersatz/narinfo"
	"ersatz/nixsig"
	"ersatz/storepath"
)

// Kind is a dialect of substitutes.
type Kind int

// The two dialects.
const (
	Guix Kind = iota
	Nix
)

// String returns the kind's name.
func (k Kind) String() string {
	if k == Nix {
		return "nix"
	}
	return "guix"
}

// kindOf returns the kind of a server, which its StoreDir tells: Nix's has a
// component "nix".
func kindOf(storeDir string) Kind {
	if slices.Contains(strings.Split(storeDir, "/"), "nix") {
		return Nix
	}
	return Guix
}

// Keys are lists of keys of both kinds.
type Keys struct {
	Guix guixsig.ACL
	Nix  []nixsig.PublicKey
}

// ParseKeys reads a list of keys: a Guix ACL, or public keys of Nix,
// NAME:BASE64, one a line, with "#" before comments.
func ParseKeys(text []byte) (k Keys, err error) {
	if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 && trimmed[0] == '(' {
		k.Guix, err = guixsig.ParseACL(text)
		return k, err
	}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		key, err := nixsig.ParsePublicKey(line)
		if err != nil {
			return k, err
		}
		k.Nix = append(k.Nix, key)
	}
	return k, nil
}

// Add returns the keys of both lists.
func (k Keys) Add(more Keys) Keys {
	for _, key := range more.Guix.Keys() {
		k.Guix = k.Guix.Add(key)
	}
	k.Nix = slices.Concat(k.Nix, more.Nix)
	return k
}

// Verify returns what a signature by one of the keys covers. Guix's covers
// more than Nix's, and is looked at first.
func (k Keys) Verify(n *narinfo.Narinfo) (narinfo.Signed, error) {
	s, err := n.VerifyGuix(k.Guix)
	if err != nil && len(k.Nix) > 0 && len(n.Sigs) > 0 {
		return n.VerifyNix(k.Nix)
	}
	return s, err
}

// anything is the upstream.Judge of a node without keys, whose clients judge for
// themselves. What Guix's signature covers is taken if the signature is by the
// key that it names, whoever has that; else, what the narinfo says.
func (k *signers) anything(n *narinfo.Narinfo) (narinfo.Signed, error) {
	if s, err := k.verify(n); err == nil {
		return s, nil
	}
	p, err := storepath.Parse(n.StorePath)
	if err != nil {
		return narinfo.Signed{}, err
	}
	if !n.HasNarSize {
		return narinfo.Signed{}, fmt.Errorf("%w: no NarSize", narinfo.ErrMalformed)
	}
	return narinfo.Signed{
		StorePath: p, NarHash: n.NarHash, NarSize: n.NarSize, HasNarSize: true,
		References: slices.Clone(n.References), Deriver: n.Deriver,
	}, nil
}
