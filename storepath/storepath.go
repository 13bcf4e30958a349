// Package storepath parses and computes the names of store items
// (Nix, libstore/store-api.cc, "Store paths have the following form"; Guix
// 1.5.0, guix/store.scm, store-path and fixed-output-path).
package storepath

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	"ersatz/nixbase32"
)

// The store folders of the two systems.
const (
	Guix = "/gnu/store"
	Nix  = "/nix/store"
)

const (
	hashSize = 20  // bytes
	hashLen  = 32  // their text
	maxName  = 211 // Nix, libstore/path.hh; leaves room for suffixes below NAME_MAX
)

// Path names a store item: Dir + "/" + Hash + "-" + Name.
type Path struct {
	Dir  string // absolute, clean
	Hash string // 32 characters of nixbase32
	Name string
}

// Parse reads an absolute store path; what precedes the last slash is the
// store's folder. A path inside a store item is refused unless its last
// component looks like an item itself: compare Dir. Errors repeat 300 characters
// of s at most.
func Parse(s string) (Path, error) {
	i := strings.LastIndexByte(s, '/')
	if i < 1 || s[0] != '/' {
		return Path{}, fmt.Errorf("storepath: %.300q is not an absolute path", s)
	}
	return ParseBase(s[:i], s[i+1:])
}

// ParseBase reads the last component of a store path.
func ParseBase(dir, base string) (Path, error) {
	if !path.IsAbs(dir) || path.Clean(dir) != dir || strings.IndexByte(dir, 0) >= 0 {
		return Path{}, fmt.Errorf("storepath: store folder %.300q is not an absolute, clean path", dir)
	}
	hash, name, ok := strings.Cut(base, "-")
	if !ok || !ValidHash(hash) {
		return Path{}, fmt.Errorf("storepath: %.300q does not begin with 32 characters of nixbase32 and a dash", base)
	}
	if !ValidName(name) {
		return Path{}, fmt.Errorf("storepath: %.300q: name %.300q is empty, too long or has a character that names cannot have", base, name)
	}
	return Path{Dir: dir, Hash: hash, Name: name}, nil
}

// String returns the whole path.
func (p Path) String() string { return p.Dir + "/" + p.Base() }

// Base returns the last component.
func (p Path) Base() string { return p.Hash + "-" + p.Name }

// ValidHash reports whether s can be the hash part of a store path.
func ValidHash(s string) bool { return len(s) == hashLen && nixbase32.Valid(s) }

// ValidName reports whether s can be the name of a store item: 1 to 211
// letters, digits and "+-._?=". Names that begin with a dot are refused, as
// the daemon does.
func ValidName(s string) bool {
	if s == "" || len(s) > maxName || s[0] == '.' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("+-._?=", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// Make returns the path of an item of a type ("source", "text",
// "output:out", …) whose inner digest, printed as "ALGO:HEX", is digest.
func Make(dir, typ, digest, name string) (Path, error) {
	sum := sha256.Sum256([]byte(typ + ":" + digest + ":" + dir + ":" + name))
	var short [hashSize]byte
	for i, c := range sum {
		short[i%hashSize] ^= c
	}
	return ParseBase(dir, nixbase32.Encode(short[:])+"-"+name)
}

// FixedOutput returns the path of a fixed-output item whose content has the
// given hash: of its nar if recursive, else of the flat file.
func FixedOutput(dir, name string, recursive bool, algo string, hash []byte) (Path, error) {
	if recursive && algo == "sha256" {
		return Source(dir, name, [32]byte(hash), nil)
	}
	mode := ""
	if recursive {
		mode = "r:"
	}
	inner := sha256.Sum256([]byte("fixed:out:" + mode + algo + ":" + hex.EncodeToString(hash) + ":"))
	return Make(dir, "output:out", "sha256:"+hex.EncodeToString(inner[:]), name)
}

// Source returns the path that an item added to the store recursively gets
// from the hash of its nar and its references.
func Source(dir, name string, narHash [32]byte, refs []Path) (Path, error) {
	texts := make([]string, len(refs))
	for i, r := range refs {
		texts[i] = r.String()
	}
	slices.Sort(texts)
	typ := strings.Join(append([]string{"source"}, texts...), ":")
	return Make(dir, typ, "sha256:"+hex.EncodeToString(narHash[:]), name)
}
