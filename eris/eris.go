// Package eris implements the Encoding for Robust Immutable Storage, version
// 1.0.0 (https://eris.codeberg.page/spec, DOI-less text of September 2022).
//
// Content is padded, cut into leaf nodes of one size (1 KiB or 32 KiB), and
// each is encrypted and named by the hash of its ciphertext, the block's
// reference. Pairs of reference and key are gathered in internal nodes, which
// are encrypted and named in turn, until one pair is left: with block size and
// level it makes the read capability, which is all that a reader needs.
//
// The hash is BLAKE2b-256, the cipher ChaCha20 with the 96-bit nonce
// (level, 0, …, 0). A leaf's key is its hash keyed with the convergence
// secret; an internal node's key is its plain hash.
//
// Blocks come from a Fetcher and are verified before anything else sees them.
// The package opens no file and no connection.
package eris

import (
	"encoding/base32"
	"errors"
	"fmt"
)

// BlockSize is the size of every block of a content, in bytes.
type BlockSize int

// The two block sizes of the specification (section "Block Size").
const (
	Size1KiB  BlockSize = 1 << 10
	Size32KiB BlockSize = 32 << 10
)

// pairSize is the size of a reference-key pair in bytes.
const pairSize = 64

// Recommended returns the block size for a content of length bytes: 1 KiB
// below 16 KiB, else 32 KiB (section "Block Size").
func Recommended(length int64) BlockSize {
	if length < 16<<10 {
		return Size1KiB
	}
	return Size32KiB
}

// ParseBlockSize reads "1KiB" or "32KiB".
func ParseBlockSize(s string) (BlockSize, error) {
	switch s {
	case "1KiB":
		return Size1KiB, nil
	case "32KiB":
		return Size32KiB, nil
	}
	return 0, fmt.Errorf("eris: block size %q is neither 1KiB nor 32KiB", s)
}

// Valid reports whether s is one of the two block sizes.
func (s BlockSize) Valid() bool { return s == Size1KiB || s == Size32KiB }

// Arity returns how many pairs an internal node holds: 16 or 512.
func (s BlockSize) Arity() int { return int(s) / pairSize }

// String returns the spelling that ParseBlockSize reads.
func (s BlockSize) String() string { return fmt.Sprintf("%dKiB", int(s)>>10) }

// Ref is a block's reference, its BLAKE2b-256 hash.
type Ref [32]byte

// Key encrypts one node.
type Key [32]byte

// Secret is a convergence secret. The zero Secret is the null secret, under
// which the same content gives the same blocks everywhere.
type Secret [32]byte

// base32Text is RFC 4648 Base32 in upper case without padding.
var base32Text = base32.StdEncoding.WithPadding(base32.NoPadding)

// parse32 reads 32 bytes from the one accepted spelling of 52 characters.
func parse32(what, s string) (b [32]byte, err error) {
	if len(s) != base32Text.EncodedLen(len(b)) {
		return b, fmt.Errorf("eris: %s has %d characters, not 52", what, len(s))
	}
	if _, err := base32Text.Decode(b[:], []byte(s)); err != nil {
		return [32]byte{}, fmt.Errorf("eris: %s: %w", what, err)
	}
	// The last character has spare bits, which Decode does not check.
	if base32Text.EncodeToString(b[:]) != s {
		return [32]byte{}, fmt.Errorf("eris: %s is not in canonical Base32", what)
	}
	return b, nil
}

// String returns the reference in 52 characters of upper-case unpadded Base32.
func (r Ref) String() string { return base32Text.EncodeToString(r[:]) }

// ParseRef reads what String prints, and nothing else.
func ParseRef(s string) (Ref, error) {
	b, err := parse32("reference", s)
	return Ref(b), err
}

// ParseSecret reads a convergence secret in 52 characters of upper-case
// unpadded Base32.
func ParseSecret(s string) (Secret, error) {
	b, err := parse32("convergence secret", s)
	return Secret(b), err
}

// The decisions that a caller takes on an error.
var (
	// ErrNotFound means that no block was to be had: ask another source.
	ErrNotFound = errors.New("eris: block not found")

	// ErrCorrupt means that bytes are not what their name says, or that a tree
	// is malformed: drop the source, or give the content up.
	ErrCorrupt = errors.New("eris: corrupt")

	// ErrTooLong means that the content is longer than the caller's bound.
	ErrTooLong = errors.New("eris: content longer than its bound")
)

func tooLong(bound int64) error { return fmt.Errorf("%w of %d bytes", ErrTooLong, bound) }

// MissingError names a block that no source had. It matches ErrNotFound.
type MissingError struct{ Ref Ref }

func (e *MissingError) Error() string { return fmt.Sprintf("eris: block %s not found", e.Ref) }

// Is reports whether target is ErrNotFound.
func (e *MissingError) Is(target error) bool { return target == ErrNotFound }

// CorruptError names a block whose bytes do not match its reference, or whose
// node breaks the rules of the tree. It matches ErrCorrupt.
type CorruptError struct {
	Ref Ref
	Msg string
}

func (e *CorruptError) Error() string { return fmt.Sprintf("eris: block %s: %s", e.Ref, e.Msg) }

// Is reports whether target is ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }
