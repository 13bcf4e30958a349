// Package torrent makes the torrents of ERIS contents: the blocks of a content
// as one file, in the order of the tree (BEP 3, version 1). Name, order and
// length of pieces follow from the content alone, so that everybody makes the
// same info hash. What is chosen here is ours: docs/bittorrent.md, "Torrent of
// an item".
package torrent

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"ersatz/eris"
)

const (
	// PieceLength is the length of each piece but the last, in bytes. It is
	// always the same, so that pieces can be hashed while a content is encoded
	// whose length is not known yet.
	PieceLength = 256 << 10

	// MaxLength bounds the blocks of a content that is made a torrent, in bytes.
	MaxLength = 200 << 30

	// MaxInfo bounds an info dictionary in bytes: those of MaxLength take 15.6
	// MiB.
	MaxInfo = 16 << 20
)

var (
	// ErrMalformed means that bytes or a text are not what this package makes.
	ErrMalformed = errors.New("torrent: malformed")

	// ErrTooLong means that there are more than MaxLength bytes of blocks, of
	// which no torrent is made.
	ErrTooLong = errors.New("torrent: content too long")
)

// Info is the info dictionary of a content's torrent.
type Info struct {
	Name   string // of the file: see Name
	Length int64  // of all blocks, in bytes
	Pieces []byte // the SHA-1 of each piece, 20 bytes each
}

// Name returns the name of the file that the blocks of a content make: the
// reference of its root, in 52 characters of Base32.
func Name(root eris.Ref) string { return root.String() }

// Builder hashes the blocks of one content, written to it in the order of the
// tree: leaves first, level by level, the root last. It holds 20 bytes per
// piece.
type Builder struct {
	sum    hash.Hash // of the piece that is being written
	length int64
	pieces []byte
}

// NewBuilder returns a Builder to which nothing was written.
func NewBuilder() *Builder { return &Builder{sum: sha1.New()} }

// Resume returns a Builder to which was written what whole pieces have these
// hashes, as Pieces has returned them. It keeps hashes.
func Resume(hashes []byte) (*Builder, error) {
	if len(hashes)%sha1.Size != 0 || len(hashes) > MaxLength/PieceLength*sha1.Size {
		return nil, fmt.Errorf("%w: hashes of pieces in %d bytes", ErrMalformed, len(hashes))
	}
	return &Builder{sum: sha1.New(), length: int64(len(hashes)/sha1.Size) * PieceLength, pieces: hashes}, nil
}

// Pieces returns the hashes of the whole pieces that were written.
func (b *Builder) Pieces() []byte { return b.pieces }

// Write takes the next bytes. The error is nil.
func (b *Builder) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		n := min(int64(len(p)), PieceLength-b.length%PieceLength)
		b.sum.Write(p[:n]) // a hash takes everything
		b.length += n
		p = p[n:]
		if b.length%PieceLength == 0 {
			b.endPiece()
		}
	}
	return written, nil
}

func (b *Builder) endPiece() {
	b.pieces = b.sum.Sum(b.pieces)
	b.sum.Reset()
}

// Length returns how many bytes were written.
func (b *Builder) Length() int64 { return b.length }

// Finish returns the info dictionary of what was written, the blocks of the
// content with that root. The Builder cannot be used afterwards.
func (b *Builder) Finish(root eris.Ref) Info {
	if b.length%PieceLength > 0 {
		b.endPiece()
	}
	return Info{Name: Name(root), Length: b.length, Pieces: b.pieces}
}

// Bytes returns the dictionary in its one form (BEP 3, "bencoding", "info
// dictionary").
func (i Info) Bytes() []byte {
	return fmt.Appendf(nil, "d6:lengthi%de4:name%s12:piece lengthi%de6:pieces%se",
		i.Length, bencode(i.Name), PieceLength, bencode(string(i.Pieces)))
}

// bencode returns a byte string as BEP 3 has it.
func bencode(s string) string { return strconv.Itoa(len(s)) + ":" + s }

// Hash returns the info hash, which names the torrent.
func (i Info) Hash() [sha1.Size]byte { return sha1.Sum(i.Bytes()) }

// ParseInfo reads what Bytes has returned, and nothing else. The error matches
// ErrMalformed.
func ParseInfo(text []byte) (Info, error) {
	if len(text) > MaxInfo {
		return Info{}, fmt.Errorf("%w: info dictionary of %d bytes, limit %d", ErrMalformed, len(text), MaxInfo)
	}
	var i Info
	head, pieces, _ := bytes.Cut(text, []byte("6:pieces"))
	if _, err := fmt.Sscanf(string(head), "d6:lengthi%de4:name52:%52s", &i.Length, &i.Name); err != nil {
		return Info{}, fmt.Errorf("%w: no info dictionary of ours", ErrMalformed)
	}
	if _, err := eris.ParseRef(i.Name); err != nil {
		return Info{}, fmt.Errorf("%w: name: %w", ErrMalformed, err)
	}
	_, pieces, _ = bytes.Cut(pieces, []byte(":"))
	i.Pieces = bytes.Clone(bytes.TrimSuffix(pieces, []byte("e")))
	if i.Length <= 0 || i.Length > MaxLength || int64(len(i.Pieces)) != (i.Length-1)/PieceLength*sha1.Size+sha1.Size || !bytes.Equal(i.Bytes(), text) {
		return Info{}, fmt.Errorf("%w: not the info dictionary of %d bytes", ErrMalformed, i.Length)
	}
	return i, nil
}

// Shape returns the shape of the tree whose blocks the torrent has. The error
// matches ErrMalformed if it is not the torrent of a content with that read
// capability.
func (i Info) Shape(c eris.ReadCap) (eris.Shape, error) {
	s, ok := eris.ShapeOfNodes(c.Size, i.Length/int64(c.Size))
	if !ok || i.Length%int64(c.Size) != 0 || s.Level() != int(c.Level) || i.Name != Name(c.Root) {
		return eris.Shape{}, fmt.Errorf("%w: %d bytes named %.80q are not the blocks of %s", ErrMalformed, i.Length, i.Name, c.URN())
	}
	return s, nil
}

// Metainfo returns the .torrent file (BEP 3; each tracker is a tier of BEP 12,
// web seeds are those of BEP 19).
func (i Info) Metainfo(trackers, webSeeds []string) []byte {
	var b strings.Builder
	b.WriteString("d")
	if len(trackers) > 0 {
		fmt.Fprintf(&b, "8:announce%s", bencode(trackers[0]))
	}
	if len(trackers) > 1 {
		b.WriteString("13:announce-listl")
		for _, t := range trackers {
			fmt.Fprintf(&b, "l%se", bencode(t))
		}
		b.WriteString("e")
	}
	fmt.Fprintf(&b, "4:info%s", i.Bytes())
	if len(webSeeds) > 0 {
		b.WriteString("8:url-listl")
		for _, s := range webSeeds {
			b.WriteString(bencode(s))
		}
		b.WriteString("e")
	}
	b.WriteString("e")
	return []byte(b.String())
}
