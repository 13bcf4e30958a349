package bake

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"ersatz/guixsig"
	"ersatz/internal/storedb"
	"ersatz/narinfo"
	"ersatz/nixsig"
)

// Signer signs narinfos for Guix, for Nix or for both. It has one key at
// least.
type Signer struct {
	Guix *guixsig.PrivateKey // nil: no Signature
	Host string              // names the server to people in Guix's signatures
	Nix  *nixsig.SecretKey   // nil: no Sig
}

// Validate reports what is wrong with a Signer.
func (s Signer) Validate() error {
	if s.Guix == nil && s.Nix == nil {
		return errors.New("no key to sign narinfos with")
	}
	if strings.ContainsAny(s.Host, ";\n") {
		return fmt.Errorf("host name %q has a semicolon or newline", s.Host)
	}
	return nil
}

// Keys returns what verifies the signatures.
func (s Signer) Keys() Keys {
	var k Keys
	if s.Guix != nil {
		k.Guix = k.Guix.Add(s.Guix.Public())
	}
	if s.Nix != nil {
		k.Nix = append(k.Nix, s.Nix.Public())
	}
	return k
}

// Encoded is what a narinfo says of an item's blocks. The zero Encoded is that
// of one that was not encoded.
type Encoded struct {
	Format, URN string // ERISFormat and ERIS
	Magnet      string // ERISMagnet; "" if there is no torrent
}

// Narinfo returns the narinfo of an item in the order of `guix publish`. nars is
// what stands below the signatures, of which Nix's is the second: Guix's covers
// all above it, and Nix's can be added to a text later.
func (s Signer) Narinfo(info storedb.Info, e Encoded, nars []narinfo.Nar) ([]byte, error) {
	f := narinfo.Fields{
		StorePath: info.Path, NarHash: info.NarHash, NarSize: info.NarSize,
		References: make([]string, len(info.References)), ERISFormat: e.Format, ERIS: e.URN, ERISMagnet: e.Magnet,
	}
	for i, r := range info.References {
		f.References[i] = r.Base()
	}
	if info.Deriver != "" {
		f.Deriver = path.Base(info.Deriver)
	}
	text := f.Body()
	if s.Guix != nil {
		var err error
		if text, err = narinfo.SignGuix(text, s.Guix, s.Host); err != nil {
			return nil, err
		}
	}
	if s.Nix != nil {
		text = append(text, f.SignNix(*s.Nix)...)
	}
	return append(text, narinfo.Locations(nars)...), nil
}

// CacheInfo returns the nix-cache-info of a server of a store. Guix's is that of
// `guix publish`. Nix asks for many items at once only where WantMassQuery is 1,
// and a smaller Priority first: that of cache.nixos.org is 40.
func (s Signer) CacheInfo(storeDir string) []byte {
	mass, priority := 0, 100
	if s.Nix != nil {
		mass, priority = 1, 30
	}
	return fmt.Appendf(nil, "StoreDir: %s\nWantMassQuery: %d\nPriority: %d\n", storeDir, mass, priority)
}

// Keys verify narinfos: each must have a signature of every kind that there
// are keys of.
type Keys struct {
	Guix guixsig.ACL
	Nix  []nixsig.PublicKey
}

// verify returns what the signatures cover.
func (k Keys) verify(n *narinfo.Narinfo) (signed narinfo.Signed, err error) {
	if len(k.Nix) > 0 {
		if signed, err = n.VerifyNix(k.Nix); err != nil {
			return narinfo.Signed{}, err
		}
	}
	// Guix's covers more.
	if len(k.Guix.Keys()) > 0 || len(k.Nix) == 0 {
		return n.VerifyGuix(k.Guix)
	}
	return signed, nil
}
