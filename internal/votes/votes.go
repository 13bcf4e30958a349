// Package votes counts by k of n: a policy names n keys, and an item counts
// only if k of them have signed the same StorePath, NarHash, NarSize and
// References. docs/votes.md has the rules and the form of the file.
//
// As with the thresholds of The Update Framework (specification 1.0,
// "Document formats": each key of a threshold is counted once), nothing follows
// from which server gave a narinfo, or how many did.
package votes

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"ersatz/guixsig"
	"ersatz/nixsig"
)

// Limits of a file.
const (
	maxFile   = 64 << 10 // bytes
	maxVoters = 64       // each costs a verification per narinfo
	maxName   = 80       // bytes
)

// ErrMalformed means that a text is no policy. Nothing counts then.
var ErrMalformed = errors.New("malformed policy of votes")

// Policy demands that a number of keys agree. The zero Policy demands nothing.
type Policy struct {
	need   int
	voters []voter
}

// voter is one of the n keys: of Guix, or of Nix.
type voter struct {
	name  string // for people
	key   string // as it is written
	point string // of the curve, in hexadecimal: one key may be written in many ways
	guix  guixsig.PublicKey
	nix   nixsig.PublicKey // if it has a name
}

// Load reads a file. The error matches ErrMalformed if it is no policy.
func Load(file string) (Policy, error) {
	f, err := os.Open(file)
	if err != nil {
		return Policy{}, fmt.Errorf("policy of votes: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Policy{}, fmt.Errorf("policy of votes: %w", err)
	}
	p, err := Parse(text)
	if err != nil {
		return Policy{}, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

// Parse reads a policy: "require K of", then the keys, each on a line of its
// own with, perhaps, a name for people. "#" starts a comment. A key that is
// listed twice is one of the n. All errors are reported, with their lines, and
// match ErrMalformed.
func Parse(text []byte) (Policy, error) {
	if len(text) > maxFile {
		return Policy{}, fmt.Errorf("%w: more than %d bytes", ErrMalformed, maxFile)
	}
	var p Policy
	var errs []error
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if err := p.line(words); err != nil {
			errs = append(errs, fmt.Errorf("%w: line %d: %w", ErrMalformed, number, err))
		}
	}
	if len(errs) == 0 && p.need == 0 {
		errs = append(errs, fmt.Errorf(`%w: no "require K of"`, ErrMalformed))
	}
	if len(errs) == 0 && p.need > len(p.voters) {
		errs = append(errs, fmt.Errorf("%w: %d of %d keys can never agree", ErrMalformed, p.need, len(p.voters)))
	}
	if len(errs) > 0 {
		return Policy{}, errors.Join(errs...)
	}
	return p, nil
}

func (p *Policy) line(words []string) error {
	if p.need == 0 {
		if len(words) != 3 || words[0] != "require" || words[2] != "of" {
			return errors.New(`not "require K of"`)
		}
		k, err := strconv.Atoi(words[1])
		if err != nil || k < 1 || strconv.Itoa(k) != words[1] {
			return fmt.Errorf("%.20q is no number of keys", words[1])
		}
		p.need = k
		return nil
	}
	if len(words) > 2 {
		return errors.New("not a key and, perhaps, a name of one word")
	}
	v, err := parseVoter(words[0])
	if err != nil {
		return err
	}
	if len(words) == 2 {
		v.name = words[1]
	}
	if !utf8.ValidString(v.name) || len(v.name) > maxName || strings.ContainsFunc(v.name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("name %.80q is too long or cannot be shown", v.name)
	}
	for _, other := range p.voters {
		if other.point == v.point {
			return nil
		}
	}
	if len(p.voters) == maxVoters {
		return fmt.Errorf("more than %d keys", maxVoters)
	}
	p.voters = append(p.voters, v)
	return nil
}

// guixPrefix starts a key of Guix as messages have it.
const guixPrefix = "ed25519:"

// parseVoter reads "ed25519:" and 64 characters of hexadecimal, a key of Guix,
// or NAME:BASE64, one of Nix.
func parseVoter(word string) (voter, error) {
	point, prefixed := strings.CutPrefix(word, guixPrefix)
	if b, err := hex.DecodeString(point); err != nil || !prefixed || len(b) != 32 {
		k, err := nixsig.ParsePublicKey(word)
		if err != nil {
			return voter{}, fmt.Errorf("neither ed25519:HEX nor a key of Nix: %w", err)
		}
		return voter{name: k.Name, key: word, point: nixPoint(k), nix: k}, nil
	}
	point = strings.ToUpper(point)
	k, err := guixsig.ParsePublicKey(fmt.Appendf(nil, "(public-key (ecc (curve Ed25519) (q #%s#)))", point))
	if err != nil {
		return voter{}, err
	}
	return voter{name: k.String(), key: k.String(), point: point, guix: k}, nil
}

// guixPoint returns the point of a key, as voters have it.
func guixPoint(k guixsig.PublicKey) string { return strings.TrimPrefix(k.String(), guixPrefix) }

func nixPoint(k nixsig.PublicKey) string {
	_, text, _ := strings.Cut(k.String(), ":")
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		panic(err) // it prints Base64
	}
	return strings.ToUpper(hex.EncodeToString(b))
}

// String prints the policy as Parse reads it.
func (p Policy) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "require %d of\n", p.need)
	for _, v := range p.voters {
		b.WriteString(v.key)
		if v.name != v.key && v.name != v.nix.Name {
			b.WriteString(" " + v.name)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Size returns how many keys have to agree, and of how many.
func (p Policy) Size() (need, of int) { return p.need, len(p.voters) }

// Keys returns the n keys.
func (p Policy) Keys() (acl guixsig.ACL, nix []nixsig.PublicKey) {
	for _, v := range p.voters {
		if v.nix.Name != "" {
			nix = append(nix, v.nix)
		} else {
			acl = acl.Add(v.guix)
		}
	}
	return acl, nix
}
