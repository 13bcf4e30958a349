package narinfo

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ersatz/nixsig"
	"ersatz/storepath"
)

// Fingerprint returns what Nix signs (Nix, libstore/path-info.cc). Neither
// Deriver nor the fields of ERIS are in it.
func (n *Narinfo) Fingerprint() string {
	dir := ""
	if p, err := storepath.Parse(n.StorePath); err == nil {
		dir = p.Dir
	}
	return fingerprint(n.StorePath, dir, n.NarHash, n.NarSize, n.References)
}

// fingerprint prints references as the set that they are: sorted, each once.
func fingerprint(path, dir string, hash [32]byte, size uint64, references []string) string {
	refs := make([]string, len(references))
	for i, r := range references {
		refs[i] = dir + "/" + r
	}
	slices.Sort(refs)
	refs = slices.Compact(refs)
	return strings.Join([]string{"1", path, FormatHash(hash), strconv.FormatUint(size, 10), strings.Join(refs, ",")}, ";")
}

// VerifyNix returns what the first Sig line that is by one of the keys covers:
// StorePath, NarHash, NarSize and References, and nothing else. Lines by other
// keys are no fault. The error matches ErrUnsigned if there is no Sig or no
// NarSize, else nixsig.ErrBadSignature if a line names one of the keys and is
// not by it, else ErrUnauthorized.
func (n *Narinfo) VerifyNix(keys []nixsig.PublicKey) (Signed, error) {
	if len(n.Sigs) == 0 {
		return Signed{}, fmt.Errorf("%w: no Sig", ErrUnsigned)
	}
	if !n.HasNarSize {
		return Signed{}, fmt.Errorf("%w: a Sig and no NarSize", ErrUnsigned)
	}
	path, err := storepath.Parse(n.StorePath)
	if err != nil {
		return Signed{}, err // Parse has checked it
	}
	text := n.Fingerprint()
	bad := fmt.Errorf("%w: none of %d Sig lines is by a trusted key", ErrUnauthorized, len(n.Sigs))
	for _, sig := range n.Sigs {
		for _, k := range keys {
			err := k.Verify(text, sig)
			if err == nil {
				return Signed{
					StorePath: path, NarHash: n.NarHash, NarSize: n.NarSize, HasNarSize: true,
					References: slices.Clone(n.References), NixKey: k,
				}, nil
			}
			if errors.Is(err, nixsig.ErrBadSignature) {
				bad = fmt.Errorf("narinfo: %w", err)
			}
		}
	}
	return Signed{}, bad
}

// SignNix returns the Sig line for a text of these fields. It may stand
// anywhere in a narinfo; below Guix's Signature, it can come and go without
// making that invalid.
func (f Fields) SignNix(key nixsig.SecretKey) []byte {
	text := fingerprint(f.StorePath.String(), f.StorePath.Dir, f.NarHash, f.NarSize, f.References)
	return fmt.Appendf(nil, "Sig: %s\n", key.Sign(text))
}
