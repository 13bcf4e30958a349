package narinfo

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ersatz/guixsig"
	"ersatz/nixsig"
	"ersatz/storepath"
)

// What verification can find.
var (
	// ErrUnsigned means that there is no signature, or that it does not cover
	// StorePath, NarHash and References.
	ErrUnsigned = errors.New("narinfo: unsigned")

	// ErrUnauthorized means that the signature is by a key that the ACL, or
	// the list of Nix's keys, lacks.
	ErrUnauthorized = errors.New("narinfo: signed by an unauthorized key")

	// ErrChanged means that the signature is over another text.
	ErrChanged = errors.New("narinfo: changed after it was signed")

	// ErrBadSignature means that the signature is not by the key it names.
	ErrBadSignature = guixsig.ErrBadSignature

	// ErrWrongPath means that a narinfo is of another item than was asked for.
	ErrWrongPath = errors.New("narinfo: of another store path")
)

const signatureField = "Signature:"

// Signed is what a signature by an authorized key covers.
type Signed struct {
	StorePath  storepath.Path
	NarHash    [32]byte
	NarSize    uint64 // if HasNarSize
	HasNarSize bool
	References []string // last components of store paths

	// What Nix's signatures do not cover.
	Deriver    string
	ERISFormat string
	ERIS       string
	ERISMagnet string // as written; "" also if ERIS is

	// Who signed: by VerifyGuix, the key and the name that the signer gave the
	// host, which proves nothing; by VerifyNix, NixKey.
	Key    guixsig.PublicKey
	Host   string
	NixKey nixsig.PublicKey
}

// signedPart returns the length of the text that Guix's signature covers: all
// before the first "Signature:" anywhere. That must be where the Signature
// line is, or the line could be one that Guix does not see.
func (n *Narinfo) signedPart() (int, error) {
	offset, ok := n.seen["Signature"]
	if !ok {
		return 0, fmt.Errorf("%w: no Signature", ErrUnsigned)
	}
	if bytes.Index(n.text, []byte(signatureField)) != offset {
		return 0, fmt.Errorf("%w: %q in another field", ErrUnsigned, signatureField)
	}
	return offset, nil
}

// SignedPart returns the text that Guix's signature covers, nil without one.
func (n *Narinfo) SignedPart() []byte {
	end, err := n.signedPart()
	if err != nil {
		return nil
	}
	return n.text[:end:end]
}

// ParsedSignature returns Guix's signature and the name of the host that made
// it, without verifying anything.
func (n *Narinfo) ParsedSignature() (sig guixsig.Signature, host string, err error) {
	return n.parsedSignature(guixsig.ACL{})
}

func (n *Narinfo) parsedSignature(acl guixsig.ACL) (sig guixsig.Signature, host string, err error) {
	if _, err := n.signedPart(); err != nil {
		return sig, "", err
	}
	version, rest, _ := strings.Cut(n.Signature, ";")
	host, text, ok := strings.Cut(rest, ";")
	if version != "1" || !ok {
		return sig, "", fmt.Errorf("%w: Signature is not 1;HOST;BASE64", ErrUnsigned)
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return sig, "", fmt.Errorf("%w: Signature: %w", ErrUnsigned, err)
	}
	if sig, err = acl.ParseSignature(b); err != nil {
		return sig, "", fmt.Errorf("%w: Signature: %w", ErrUnsigned, err)
	}
	return sig, host, nil
}

// VerifyGuix checks Guix's signature in the order of Guix: key in the ACL,
// hash of the text, signature. The error matches ErrUnsigned, ErrUnauthorized,
// ErrChanged or ErrBadSignature.
func (n *Narinfo) VerifyGuix(acl guixsig.ACL) (Signed, error) {
	sig, host, err := n.parsedSignature(acl)
	if err != nil {
		return Signed{}, err
	}
	for _, name := range []string{"StorePath", "NarHash", "References"} {
		if !n.covers(name) {
			return Signed{}, fmt.Errorf("%w: the signature does not cover %s", ErrUnsigned, name)
		}
	}
	if !acl.Authorizes(sig.Key()) {
		return Signed{}, fmt.Errorf("%w: %s, by %.80q, not in the ACL", ErrUnauthorized, sig.Key(), host)
	}
	digest := sha256.Sum256(n.SignedPart())
	if !bytes.Equal(digest[:], sig.Digest()) {
		return Signed{}, fmt.Errorf("%w by %s, %.80q", ErrChanged, sig.Key(), host)
	}
	if err := sig.Verify(); err != nil {
		return Signed{}, fmt.Errorf("narinfo: %w", err)
	}
	path, err := storepath.Parse(n.StorePath)
	if err != nil {
		return Signed{}, err // Parse has checked it
	}
	s := Signed{
		StorePath: path, NarHash: n.NarHash, References: slices.Clone(n.References),
		Key: sig.Key(), Host: host,
	}
	if n.covers("NarSize") {
		s.NarSize, s.HasNarSize = n.NarSize, true
	}
	if n.covers("Deriver") {
		s.Deriver = n.Deriver
	}
	if n.covers("ERIS") && n.covers("ERISFormat") {
		s.ERIS, s.ERISFormat = n.ERIS, n.ERISFormat
		if n.covers("ERISMagnet") {
			s.ERISMagnet = n.ERISMagnet
		}
	}
	return s, nil
}

// covers reports whether the field stands in the signed part.
func (n *Narinfo) covers(name string) bool {
	end, err := n.signedPart()
	offset, ok := n.seen[name]
	return err == nil && ok && offset < end
}

// Matches returns an error that matches ErrWrongPath unless s is of the item
// that was asked for: a validly signed old openssl is no answer.
func (s Signed) Matches(p storepath.Path) error {
	if s.StorePath != p {
		return fmt.Errorf("%w: %s, not %s", ErrWrongPath, s.StorePath, p)
	}
	return nil
}

// Agrees reports whether a narinfo, signed or not, is of the same item with
// the same content as s, so that its URLs can serve s.
func (s Signed) Agrees(n *Narinfo) bool {
	same := s.StorePath.String() == n.StorePath && s.NarHash == n.NarHash && sameSet(s.References, n.References)
	if s.HasNarSize && n.HasNarSize {
		return same && s.NarSize == n.NarSize
	}
	return same
}

// SameReferences reports whether both name the same references.
func (s Signed) SameReferences(o Signed) bool { return sameSet(s.References, o.References) }

func sameSet(a, b []string) bool {
	if slices.Equal(a, b) {
		return true
	}
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
