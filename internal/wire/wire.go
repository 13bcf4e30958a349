// Package wire reads and writes the two shapes that the nar format and the
// daemon's socket protocol are made of (Nix manual, "Nix Archive format";
// Guix, guix/serialization.scm): unsigned 64-bit little-endian integers, and
// byte strings that are preceded by their length and padded with zeros to a
// multiple of 8 bytes.
//
// Guix and Nix ignore the padding's value when they read. This package does
// not: non-zero padding would give one value two spellings.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

var (
	// ErrTooLong means that a string is longer than the reader's limit.
	// Nothing has been allocated for it.
	ErrTooLong = errors.New("wire: string too long")

	// ErrPadding means that the bytes after a string are not zeros.
	ErrPadding = errors.New("wire: non-zero padding")
)

// Padding returns how many zero bytes follow a string of n bytes: 0 to 7.
func Padding(n uint64) int { return int(-n & 7) }

// AppendUint64 appends v to dst.
func AppendUint64(dst []byte, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(dst, v)
}

// AppendString appends s to dst, with its length and its padding.
func AppendString(dst []byte, s string) []byte {
	dst = AppendUint64(dst, uint64(len(s)))
	dst = append(dst, s...)
	var zeros [8]byte
	return append(dst, zeros[:Padding(uint64(len(s)))]...)
}

// firstChunk bounds what is allocated on the word of a length alone, in bytes.
const firstChunk = 64 << 10

// Reader reads integers and strings from a stream. It reads no byte further
// than it is asked to, so give it a buffered stream.
type Reader struct {
	r   io.Reader
	buf [8]byte
}

// NewReader returns a Reader that reads from r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Uint64 reads an integer. It returns io.EOF if the stream ends before its
// first byte, and io.ErrUnexpectedEOF if it ends within it.
func (r *Reader) Uint64() (uint64, error) {
	if _, err := io.ReadFull(r.r, r.buf[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(r.buf[:]), nil
}

// Bytes reads a string of at most max bytes. It returns ErrTooLong or
// ErrPadding for a string that it refuses, io.EOF if the stream ends before
// the string, and io.ErrUnexpectedEOF if it ends within it.
func (r *Reader) Bytes(max uint64) ([]byte, error) {
	n, err := r.Uint64()
	if err != nil {
		return nil, err
	}
	if n > max {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrTooLong, n, max)
	}
	b := make([]byte, min(n, firstChunk))
	for have := uint64(0); have < n; {
		if have == uint64(len(b)) {
			b = append(b, make([]byte, min(n-have, have))...)
		}
		m, err := io.ReadFull(r.r, b[have:])
		if err != nil {
			return nil, unexpected(err)
		}
		have += uint64(m)
	}
	pad := r.buf[:Padding(n)]
	if _, err := io.ReadFull(r.r, pad); err != nil {
		return nil, unexpected(err)
	}
	for _, c := range pad {
		if c != 0 {
			return nil, ErrPadding
		}
	}
	return b, nil
}

// String is like Bytes but returns a string.
func (r *Reader) String(max uint64) (string, error) {
	b, err := r.Bytes(max)
	return string(b), err
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Writer writes integers and strings to a stream, each by one Write.
type Writer struct {
	w   io.Writer
	buf []byte
}

// NewWriter returns a Writer that writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Uint64 writes an integer.
func (w *Writer) Uint64(v uint64) error {
	w.buf = AppendUint64(w.buf[:0], v)
	_, err := w.w.Write(w.buf)
	return err
}

// String writes a string with its length and padding.
func (w *Writer) String(s string) error {
	w.buf = AppendString(w.buf[:0], s)
	_, err := w.w.Write(w.buf)
	return err
}
