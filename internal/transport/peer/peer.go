// Package peer asks nodes which contents they hold: for the hash of a nar, the
// URN of the compressed nar that a node has whole or in part. docs/node.md,
// "Peers", has the protocol, which is ours. The blocks themselves are asked for
// as everywhere (package n2r).
package peer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/narinfo"
)

const (
	// HavePath is where the question is posted.
	HavePath = "/eris/have"
	// MaxHashes bounds the hashes in one request.
	MaxHashes = 1024

	// maxBitmap bounds the bitmap of one part, in bytes: 512 KiB stand for a
	// compressed nar of 128 GiB.
	maxBitmap = 512 << 10
	// maxBitmaps bounds what all bitmaps of an answer have, in bytes as sent.
	maxBitmaps = 1 << 20
	// maxLine bounds a line of an answer without its bitmap, in bytes.
	maxLine = 256
)

// ErrMalformed means that a question or an answer is not in the protocol.
var ErrMalformed = errors.New("malformed list of what a peer has")

// Held is what a node has of one nar.
type Held struct {
	ReadCap eris.ReadCap
	// Format is what the content decodes to, as ERISFormat has it.
	Format string
	// Part says that some blocks are missing.
	Part bool
	// Leaves has a bit per leaf of a part, from the content's start, the most
	// significant of a byte first. Nil if the node did not say, or is whole.
	Leaves []byte
}

// Has reports whether a leaf is there as far as was said. A whole content has
// all, and a part of which nothing was said may have any.
func (h Held) Has(leaf int64) bool {
	if !h.Part || h.Leaves == nil {
		return true
	}
	return leaf >= 0 && leaf/8 < int64(len(h.Leaves)) && h.Leaves[leaf/8]&(0x80>>(leaf%8)) != 0
}

// line prints h, with a bitmap of at most room bytes.
func (h *Held) line(room int) string {
	switch {
	case h == nil:
		return "-"
	case !h.Part:
		return "whole " + h.ReadCap.URN() + " " + h.Format
	case h.Leaves == nil || base64.StdEncoding.EncodedLen(len(h.Leaves)) > room:
		return "part " + h.ReadCap.URN() + " " + h.Format
	}
	return "part " + h.ReadCap.URN() + " " + h.Format + " " + base64.StdEncoding.EncodeToString(h.Leaves)
}

// parseHeld reads what line prints, nil for "-".
func parseHeld(line string) (*Held, error) {
	if line == "-" {
		return nil, nil
	}
	words := strings.Split(line, " ")
	if len(words) < 3 || len(words) > 4 || words[0] != "part" && (words[0] != "whole" || len(words) > 3) {
		return nil, fmt.Errorf("%w: line %.80q", ErrMalformed, line)
	}
	c, err := eris.ParseURN(words[1])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if _, err := compress.ParseFormat(words[2]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	h := &Held{ReadCap: c, Format: words[2], Part: words[0] == "part"}
	if len(words) == 4 {
		if base64.StdEncoding.DecodedLen(len(words[3])) > maxBitmap+2 {
			return nil, fmt.Errorf("%w: bitmap of more than %d bytes", ErrMalformed, maxBitmap)
		}
		if h.Leaves, err = base64.StdEncoding.Strict().DecodeString(words[3]); err != nil || len(h.Leaves) == 0 {
			return nil, fmt.Errorf("%w: bitmap", ErrMalformed)
		}
	}
	return h, nil
}

// parseHashes reads a question.
func parseHashes(text string) ([][32]byte, error) {
	var hashes [][32]byte
	for line := range strings.Lines(text) {
		if len(hashes) == MaxHashes {
			return nil, fmt.Errorf("%w: more than %d hashes", ErrMalformed, MaxHashes)
		}
		h, err := narinfo.ParseHash(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		hashes = append(hashes, h)
	}
	if len(hashes) == 0 {
		return nil, fmt.Errorf("%w: no hash", ErrMalformed)
	}
	return hashes, nil
}

// printHashes prints what parseHashes reads.
func printHashes(hashes [][32]byte) string {
	var b strings.Builder
	for _, h := range hashes {
		b.WriteString(narinfo.FormatHash(h))
		b.WriteByte('\n')
	}
	return b.String()
}
