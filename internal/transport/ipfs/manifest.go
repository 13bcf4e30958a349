package ipfs

import (
	"encoding/binary"
	"errors"
	"iter"

	"ersatz/eris"
)

// A manifest names all blocks of an item, so that one pin holds them. It is a
// tree of DAG-CBOR nodes, each an array of links and nothing else: the nodes
// of the lowest level link to blocks, the others to nodes. All nodes but the
// last of a level have maxLinks links. The same references in the same order
// make the same manifest.
const (
	maxNode  = 256 << 10 // bytes; Kubo refuses blocks above 2 MiB
	linkSize = 2 + 2 + 1 + len(cid{})
	maxLinks = (maxNode - 3) / linkSize // 6,096
)

var errNoBlocks = errors.New("ipfs: no blocks")

// manifest builds the tree of refs, with one node per level in memory. emit is
// handed each node, children first, and may be nil; the bytes are valid until
// it returns. The CID of the root is returned.
func manifest(refs iter.Seq[eris.Ref], emit func(c cid, node []byte) error) (cid, error) {
	b := manifestBuilder{emit: emit}
	for ref := range refs {
		if err := b.add(0, rawCID(ref)); err != nil {
			return cid{}, err
		}
	}
	return b.finish()
}

type manifestBuilder struct {
	emit   func(c cid, node []byte) error
	levels []manifestLevel
	node   []byte
}

// manifestLevel gathers the links of one node.
type manifestLevel struct {
	links []byte
	n     int
}

// add puts a link into the node that is being filled at level. A full node is
// closed only when one more link comes, so that no level has a single node
// above another.
func (b *manifestBuilder) add(level int, c cid) error {
	if level == len(b.levels) {
		b.levels = append(b.levels, manifestLevel{})
	}
	if b.levels[level].n == maxLinks {
		if err := b.close(level); err != nil {
			return err
		}
	}
	l := &b.levels[level]
	l.links = appendLink(l.links, c)
	l.n++
	return nil
}

// close emits the node of a level and links to it from the level above.
func (b *manifestBuilder) close(level int) error {
	c, err := b.seal(level)
	if err != nil {
		return err
	}
	return b.add(level+1, c)
}

// seal emits the node of a level, which is empty afterwards.
func (b *manifestBuilder) seal(level int) (cid, error) {
	l := &b.levels[level]
	b.node = appendHead(b.node[:0], cborArray, uint64(l.n))
	b.node = append(b.node, l.links...)
	l.links, l.n = l.links[:0], 0
	c := nodeCID(b.node)
	if b.emit == nil {
		return c, nil
	}
	return c, b.emit(c, b.node)
}

func (b *manifestBuilder) finish() (cid, error) {
	if len(b.levels) == 0 {
		return cid{}, errNoBlocks
	}
	for level := 0; level < len(b.levels)-1; level++ {
		if err := b.close(level); err != nil {
			return cid{}, err
		}
	}
	return b.seal(len(b.levels) - 1)
}

// Major types of CBOR (RFC 8949, "Major Types"), shifted into place.
const (
	cborBytes = 2 << 5
	cborArray = 4 << 5
	cborTag   = 6 << 5
)

// appendHead appends a CBOR head in its shortest form, as DAG-CBOR demands.
func appendHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, major|27), n)
	}
}

// appendLink appends a link (DAG-CBOR, "Links"): tag 42 on a byte string of a
// zero byte and the CID.
func appendLink(b []byte, c cid) []byte {
	b = appendHead(b, cborTag, 42)
	b = appendHead(b, cborBytes, uint64(1+len(c)))
	b = append(b, 0)
	return append(b, c[:]...)
}
