// Package nixbase32 implements the Base32 of Guix and Nix: the digits
// 0123456789abcdfghijklmnpqrsvwxyz, the bits of the input taken as one
// little-endian number and printed from its most significant quintet on
// (Guix 1.5.0, guix/base32.scm; Nix, libutil/base-nix-32.cc).
package nixbase32

import "fmt"

const digits = "0123456789abcdfghijklmnpqrsvwxyz"

// values maps a digit to its value, other bytes to 0xff.
var values = func() (v [256]byte) {
	for i := range v {
		v[i] = 0xff
	}
	for i, c := range []byte(digits) {
		v[c] = byte(i)
	}
	return v
}()

// EncodedLen returns the length of the text of n bytes: 32 for a store path's
// 20, 52 for a SHA-256.
func EncodedLen(n int) int { return (n*8 + 4) / 5 }

// Encode returns the text of b.
func Encode(b []byte) string {
	out := make([]byte, EncodedLen(len(b)))
	for i := range out {
		bit := (len(out) - 1 - i) * 5
		j, shift := bit/8, bit%8
		v := uint(b[j]) >> shift
		if j+1 < len(b) {
			v |= uint(b[j+1]) << (8 - shift)
		}
		out[i] = digits[v&31]
	}
	return string(out)
}

// Decode returns the bytes that s is the text of. It accepts what Encode
// returns and nothing else: a length or a first digit that no bytes have, and
// a byte that is no digit, are errors.
func Decode(s string) ([]byte, error) {
	n := len(s) * 5 / 8
	if EncodedLen(n) != len(s) {
		return nil, fmt.Errorf("nixbase32: no bytes have a text of %d characters", len(s))
	}
	b := make([]byte, n)
	for i := range len(s) {
		v := values[s[i]]
		if v == 0xff {
			return nil, fmt.Errorf("nixbase32: character %q at %d", s[i], i)
		}
		bit := (len(s) - 1 - i) * 5
		j, shift := bit/8, bit%8
		low, high := uint(v)<<shift&0xff, uint(v)>>(8-shift)
		if j < n {
			b[j] |= byte(low)
		} else if low != 0 {
			return nil, fmt.Errorf("nixbase32: character %q at %d has bits beyond the last byte", s[i], i)
		}
		if j+1 < n {
			b[j+1] |= byte(high)
		} else if high != 0 {
			return nil, fmt.Errorf("nixbase32: character %q at %d has bits beyond the last byte", s[i], i)
		}
	}
	return b, nil
}

// Valid reports whether all bytes of s are digits.
func Valid(s string) bool {
	for i := range len(s) {
		if values[s[i]] == 0xff {
			return false
		}
	}
	return true
}
