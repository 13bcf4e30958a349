package eris

import (
	"fmt"
	"math"
	"strings"
)

const (
	capSize      = 66 // block size, level, reference, key
	urnPrefix    = "urn:eris:"
	legacyPrefix = "urn:erisx2:"
)

// ReadCap is a read capability: all that is needed to fetch and decode a
// content (section "Read Capability"). Who has it can read the content.
type ReadCap struct {
	Size  BlockSize
	Level uint8 // of the root node; 0 if the content is one block
	Root  Ref
	Key   Key

	legacy bool // ERIS 0.3.0: every nonce is zero, the root's key is unchecked
}

// MaxLength returns the length in bytes of the longest content that a tree of
// c's level can hold, math.MaxInt64 at most.
func (c ReadCap) MaxLength() int64 {
	n := nodeSpan(c.Size, int(c.Level))
	if n == math.MaxInt64 {
		return n
	}
	return n - 1 // at least one byte is padding
}

// minLength returns the length of the shortest content whose tree has c's
// level: a root above the leaves has two children at least, and all but its
// last child are full.
func (c ReadCap) minLength() int64 {
	if c.Level == 0 {
		return 0
	}
	return nodeSpan(c.Size, int(c.Level)-1)
}

// bound returns the bound on a content's length that follows from a caller's,
// 0 for none. It refuses a read capability that nothing within it can have.
func (c ReadCap) bound(length int64) (int64, error) {
	if !c.Size.Valid() {
		return 0, fmt.Errorf("eris: read capability: unknown block size %d", int(c.Size))
	}
	if length <= 0 || length > c.MaxLength() {
		length = c.MaxLength()
	}
	if least := c.minLength(); least > length || least == math.MaxInt64 {
		return 0, fmt.Errorf("%w of %d bytes: a tree of level %d holds more", ErrTooLong, length, c.Level)
	}
	return length, nil
}

// lastNode returns the index of the last node of a level that a content of at
// most length bytes can have: every node before it is full.
func (c ReadCap) lastNode(level int, length int64) int64 { return length / nodeSpan(c.Size, level) }

// nodeSpan returns how many bytes lie under one full node of a level,
// math.MaxInt64 if more than that.
func nodeSpan(size BlockSize, level int) int64 {
	n := int64(size)
	for range level {
		if n > math.MaxInt64/int64(size.Arity()) {
			return math.MaxInt64
		}
		n *= int64(size.Arity())
	}
	return n
}

// Bytes returns the binary form, 66 bytes (section "Binary Encoding of Read
// Capability").
func (c ReadCap) Bytes() []byte {
	b := make([]byte, 0, capSize)
	if c.Size == Size1KiB {
		b = append(b, 0x0a)
	} else {
		b = append(b, 0x0f)
	}
	b = append(b, c.Level)
	b = append(b, c.Root[:]...)
	return append(b, c.Key[:]...)
}

// ParseReadCap reads the binary form, and nothing else.
func ParseReadCap(b []byte) (ReadCap, error) {
	if len(b) != capSize {
		return ReadCap{}, fmt.Errorf("eris: read capability has %d bytes, not %d", len(b), capSize)
	}
	var c ReadCap
	switch b[0] {
	case 0x0a:
		c.Size = Size1KiB
	case 0x0f:
		c.Size = Size32KiB
	default:
		return ReadCap{}, fmt.Errorf("eris: read capability: unknown block size %#02x", b[0])
	}
	c.Level = b[1]
	copy(c.Root[:], b[2:])
	copy(c.Key[:], b[34:])
	return c, nil
}

// URN returns the read capability as a URN of 115 characters (section "URN").
func (c ReadCap) URN() string {
	prefix := urnPrefix
	if c.legacy {
		prefix = legacyPrefix
	}
	return prefix + base32Text.EncodeToString(c.Bytes())
}

// ParseURN reads the one accepted spelling: "urn:eris:" and 106 characters of
// upper-case unpadded Base32, the last with its spare bits zero.
func ParseURN(s string) (ReadCap, error) { return parseURN(urnPrefix, s) }

// ParseLegacyURN reads a "urn:erisx2:" URN of ERIS 0.3.0, the form that the
// proposal of Guix bug 52555 put into narinfos. The result decodes; nothing
// encodes to it.
func ParseLegacyURN(s string) (ReadCap, error) {
	c, err := parseURN(legacyPrefix, s)
	if err != nil {
		return ReadCap{}, err
	}
	c.legacy = true
	return c, nil
}

func parseURN(prefix, s string) (ReadCap, error) {
	text, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return ReadCap{}, fmt.Errorf("eris: URN does not begin with %q", prefix)
	}
	if len(text) != base32Text.EncodedLen(capSize) {
		return ReadCap{}, fmt.Errorf("eris: URN has %d characters after %q, not 106", len(text), prefix)
	}
	b, err := base32Text.DecodeString(text)
	if err != nil {
		return ReadCap{}, fmt.Errorf("eris: URN: %w", err)
	}
	// The last character has spare bits, which DecodeString does not check.
	if base32Text.EncodeToString(b) != text {
		return ReadCap{}, fmt.Errorf("eris: URN is not in canonical Base32")
	}
	return ParseReadCap(b)
}
