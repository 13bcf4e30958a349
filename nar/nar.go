// Package nar writes and reads nars, the archives of Guix and Nix store items
// (Nix manual, "Nix Archive (NAR) format"; Guix 1.5.0, guix/serialization.scm
// and guix/store/deduplication.scm).
//
// A nar holds names, contents, link targets and the executable bit of a file
// tree and nothing else, so one tree has exactly one nar and one hash. Dump
// writes it; Restore, Verify and List accept nothing but what Dump would have
// written. The readers of Guix and Nix are laxer (order, duplicates, padding,
// "..", in Guix even "/" in names); where they differ from Dump's output, this
// package refuses, with a SyntaxError that names the place.
package nar

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

// Limits that hold for every archive, written or read.
const (
	// MaxName bounds the name of a directory entry, in bytes.
	MaxName = 255

	// MaxTarget bounds the target of a symbolic link, in bytes.
	MaxTarget = 4095

	// MaxDepth bounds how many directories enclose an entry.
	MaxDepth = 256
)

// ErrTooLarge means that an archive is larger than the bound that the caller
// gave. The error that matches it is a *SyntaxError.
var ErrTooLarge = errors.New("nar: archive larger than its bound")

// Info describes an archive that was written or read whole.
type Info struct {
	Hash [32]byte // SHA-256 of the archive
	Size int64    // bytes of the archive
}

// SyntaxError says where and why an archive was refused.
type SyntaxError struct {
	Offset int64  // of the byte in the archive where the fault's token begins
	Path   string // of the entry, slash-separated, relative to the root; "" is the root
	Msg    string
	Err    error // ErrTooLarge, io.ErrUnexpectedEOF, or nil
}

func (e *SyntaxError) Error() string {
	where := "at the root"
	if e.Path != "" {
		where = fmt.Sprintf("in %q", e.Path)
	}
	return fmt.Sprintf("nar: byte %d, %s: %s", e.Offset, where, e.Msg)
}

// Unwrap returns e.Err.
func (e *SyntaxError) Unwrap() error { return e.Err }

// Hasher computes the Info of an archive that passes through it. It does not
// parse. It is an io.Writer whose Write never fails, and an io.ReaderFrom.
type Hasher struct {
	hash hash.Hash
	size int64
}

// NewHasher returns a Hasher that has seen nothing.
func NewHasher() *Hasher { return &Hasher{hash: sha256.New()} }

// Write adds p to the archive.
func (h *Hasher) Write(p []byte) (int, error) {
	h.size += int64(len(p))
	return h.hash.Write(p)
}

// ReadFrom adds all that r has, and returns its size and r's error but io.EOF.
// What was read is hashed by another goroutine while r is read on.
func (h *Hasher) ReadFrom(r io.Reader) (size int64, err error) {
	ring := newRing()
	defer ring.release()
	hash := hashing{Hasher: h, ring: ring}
	defer hash.finish()
	for err == nil {
		c := ring.get()
		n := 0
		for n < bufSize && err == nil {
			var m int
			m, err = read(r, c.buf[n:])
			n += m
		}
		size += int64(n)
		hash.add(c, 0, n)
		ring.put(c)
	}
	if isEOF(err) {
		err = nil
	}
	return size, err
}

// reset forgets what was written.
func (h *Hasher) reset() {
	h.hash.Reset()
	h.size = 0
}

// Sum returns the SHA-256 of what was written so far.
func (h *Hasher) Sum() (sum [32]byte) {
	h.hash.Sum(sum[:0])
	return sum
}

// Size returns how many bytes were written so far.
func (h *Hasher) Size() int64 { return h.size }

// Info returns both.
func (h *Hasher) Info() Info { return Info{Hash: h.Sum(), Size: h.size} }

// validName reports whether s can name a directory entry.
func validName(s string) error {
	switch {
	case s == "":
		return errors.New("empty name")
	case s == "." || s == "..":
		return fmt.Errorf("name %q", s)
	case len(s) > MaxName:
		return fmt.Errorf("name of %d bytes, limit %d", len(s), MaxName)
	}
	if i := strings.IndexAny(s, "/\x00"); i >= 0 {
		return fmt.Errorf("name %q contains %q", s, s[i])
	}
	return nil
}
