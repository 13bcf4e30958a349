// Package narinfo reads, prints, signs and verifies narinfos, the texts in
// which substitute servers say what they have (Guix 1.5.0, guix/narinfo.scm
// and guix/scripts/publish.scm; Nix, libstore/nar-info.cc).
//
// A narinfo is "Field: value" lines. Guix signs all the text before the first
// "Signature:"; what stands below is unsigned. Nix signs a fingerprint of some
// fields. One text can carry both. The fields ERISFormat and ERIS are those of
// Guix bug 52555; ERISMagnet, a magnet link of a torrent of the blocks, is ours.
//
// Code that installs reads a Signed, which holds what a signature covers, and
// never a Narinfo, which holds what a server says.
package narinfo

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"ersatz/nixbase32"
	"ersatz/storepath"
)

// Limits of Parse.
const (
	// MaxSize bounds the text, in bytes.
	MaxSize = 1 << 20
	// MaxNars bounds how many nars one narinfo offers.
	MaxNars = 64
	// MaxSigs bounds its Sig lines, each of which costs a verification.
	MaxSigs = 64
)

// ErrMalformed means that a text is no narinfo.
var ErrMalformed = errors.New("narinfo: malformed")

// Nar is one place and form of the item's nar.
type Nar struct {
	URL         string // relative to the server, percent-encoded
	Compression string // none, gzip, lzip, zstd, xz, bzip2, …
	FileSize    uint64 // bytes as compressed; 0 if unknown
	FileHash    string // as written; "" if unknown
}

// Field is a line of a name that this package gives no meaning.
type Field struct{ Name, Value string }

// Narinfo is what a server says of an item. Nothing in it is verified.
type Narinfo struct {
	StorePath  string
	NarHash    [32]byte
	NarSize    uint64
	HasNarSize bool
	References []string // last components of store paths
	Deriver    string   // last component; "" if unknown
	System     string
	ERISFormat string
	ERIS       string
	ERISMagnet string
	Nars       []Nar
	Signature  string   // Guix's, as written; "" if unsigned
	Sigs       []string // Nix's
	Unknown    []Field  // in order

	text []byte
	seen map[string]int // single-valued fields: offset of their line
}

// Parse reads a narinfo. Fields that can stand only once and stand twice are
// refused, since nobody could say which one is signed. The error matches
// ErrMalformed.
func Parse(text []byte) (*Narinfo, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrMalformed, len(text), MaxSize)
	}
	if len(text) == 0 || text[len(text)-1] != '\n' {
		return nil, fmt.Errorf("%w: text does not end with a newline", ErrMalformed)
	}
	n := &Narinfo{text: bytes.Clone(text), seen: map[string]int{}}
	offset, whole := 0, string(text)
	for number := 1; offset < len(whole); number++ {
		end := offset + strings.IndexByte(whole[offset:], '\n')
		if err := n.line(offset, whole[offset:end]); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrMalformed, number, err)
		}
		offset = end + 1
	}
	for _, name := range []string{"StorePath", "NarHash"} {
		if _, ok := n.seen[name]; !ok {
			return nil, fmt.Errorf("%w: no %s", ErrMalformed, name)
		}
	}
	// Nix's default, from when it was the only method.
	for i := range n.Nars {
		if n.Nars[i].Compression == "" {
			n.Nars[i].Compression = "bzip2"
		}
	}
	return n, nil
}

func (n *Narinfo) line(offset int, line string) error {
	name, value, ok := strings.Cut(line, ": ")
	if !ok {
		// "References:" without the space, as some servers print it.
		if name, ok = strings.CutSuffix(line, ":"); !ok {
			return fmt.Errorf("%q is no \"Field: value\"", clip(line))
		}
	}
	if name == "" || strings.ContainsAny(line, "\x00\r") {
		return fmt.Errorf("%q is no \"Field: value\"", clip(line))
	}
	switch name {
	case "URL", "Compression", "FileSize", "FileHash":
		return n.nar(name, value)
	case "Sig":
		if len(n.Sigs) == MaxSigs {
			return fmt.Errorf("more than %d Sigs", MaxSigs)
		}
		n.Sigs = append(n.Sigs, value)
		return nil
	}
	known, err := n.single(name, value)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !known {
		n.Unknown = append(n.Unknown, Field{name, value})
		return nil
	}
	if _, twice := n.seen[name]; twice {
		return fmt.Errorf("%s stands twice", name)
	}
	n.seen[name] = offset
	return nil
}

// single takes a field that stands at most once.
func (n *Narinfo) single(name, value string) (known bool, err error) {
	switch name {
	case "StorePath":
		n.StorePath = value
		_, err = storepath.Parse(value)
	case "NarHash":
		n.NarHash, err = ParseHash(value)
	case "NarSize":
		n.HasNarSize = true
		n.NarSize, err = number(value)
	case "References":
		n.References = strings.Fields(value)
		for _, r := range n.References {
			if _, err := storepath.ParseBase("/", r); err != nil {
				return true, err
			}
		}
	case "Deriver":
		if value != "unknown-deriver" {
			n.Deriver = value
		}
	case "System":
		n.System = value
	case "ERISFormat":
		n.ERISFormat = value
	case "ERIS":
		n.ERIS = value
	case "ERISMagnet":
		n.ERISMagnet = value
	case "Signature":
		n.Signature = value
	default:
		return false, nil
	}
	return true, err
}

// nar takes a field of which each URL has one.
func (n *Narinfo) nar(name, value string) error {
	if name == "URL" {
		if len(n.Nars) == MaxNars {
			return fmt.Errorf("more than %d URLs", MaxNars)
		}
		n.Nars = append(n.Nars, Nar{URL: value})
		return nil
	}
	if len(n.Nars) == 0 {
		return fmt.Errorf("%s without a URL before it", name)
	}
	last := &n.Nars[len(n.Nars)-1]
	switch name {
	case "Compression":
		if last.Compression != "" {
			return errors.New("two Compressions for one URL")
		}
		last.Compression = value
	case "FileHash":
		last.FileHash = value
	case "FileSize":
		size, err := number(value)
		if err != nil {
			return fmt.Errorf("FileSize: %w", err)
		}
		last.FileSize = size
	}
	return nil
}

// Text returns the text that was parsed, byte for byte.
func (n *Narinfo) Text() []byte { return n.text }

// number reads an unsigned 64-bit number in its one spelling.
func number(s string) (uint64, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || strconv.FormatUint(v, 10) != s {
		return 0, fmt.Errorf("%q is no unsigned 64-bit number", clip(s))
	}
	return v, nil
}

// ParseHash reads "sha256:" and 52 characters of nixbase32, 64 of hexadecimal
// or 44 of Base64; also Nix's "sha256-" and Base64.
func ParseHash(s string) (h [32]byte, err error) {
	const name = "sha256"
	text, colon := strings.CutPrefix(s, name+":")
	sri := false
	if !colon {
		text, sri = strings.CutPrefix(s, name+"-")
	}
	var b []byte
	switch {
	case !colon && !sri:
		err = errors.New("another hash")
	case len(text) == base64.StdEncoding.EncodedLen(len(h)):
		b, err = base64.StdEncoding.Strict().DecodeString(text)
	case sri:
		err = errors.New("not in Base64")
	case len(text) == hex.EncodedLen(len(h)):
		b, err = hex.DecodeString(text)
	default:
		b, err = nixbase32.Decode(text)
	}
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("%q is no sha256: hash", clip(s))
	}
	return [32]byte(b), nil
}

// FormatHash prints "sha256:" and nixbase32.
func FormatHash(h [32]byte) string { return "sha256:" + nixbase32.Encode(h[:]) }

// clip bounds what an error message repeats of a hostile text.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
