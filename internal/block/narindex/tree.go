package narindex

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"ersatz/eris"
)

// A tree file is treeMagic, the pairs of all nodes in the order of their
// numbers, the read capability, and the content's length as 8 bytes,
// big-endian. The pairs of a node's children stand one after the other, so
// that they are the plaintext of that node.
const (
	treeMagic = "ersatz-tree-1\n"
	pairSize  = 64
	capSize   = 66
	tailSize  = capSize + 8
)

// window is how many pairs are read at once.
const window = 64

// tree is an open tree file. It is not safe for concurrent use.
type tree struct {
	shape  eris.Shape
	length int64 // of the content in bytes
	cap    eris.ReadCap
	f      *os.File

	buf  [window * pairSize]byte
	from int64 // number of the node whose pair is first in buf
	n    int64 // pairs in buf
}

// openTree opens a tree file and checks that it is as long as the length that
// it gives demands. The error matches fs.ErrNotExist or eris.ErrCorrupt.
func openTree(path string) (*tree, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	t := &tree{f: f}
	if err := t.readTail(); err != nil {
		f.Close() // it was only read
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

func (t *tree) readTail() error {
	fi, err := t.f.Stat()
	if err != nil {
		return err
	}
	pairs := fi.Size() - int64(len(treeMagic)) - tailSize
	if pairs < pairSize || pairs%pairSize != 0 {
		return fmt.Errorf("%w: no tree file has %d bytes", eris.ErrCorrupt, fi.Size())
	}
	var head [len(treeMagic)]byte
	if _, err := t.f.ReadAt(head[:], 0); err != nil {
		return err
	}
	var tail [pairSize + tailSize]byte
	if _, err := t.f.ReadAt(tail[:], fi.Size()-int64(len(tail))); err != nil {
		return err
	}
	c, err := eris.ParseReadCap(tail[pairSize:][:capSize])
	if err != nil || string(head[:]) != treeMagic {
		return fmt.Errorf("%w: no tree file", eris.ErrCorrupt)
	}
	t.cap = c
	t.length = int64(binary.BigEndian.Uint64(tail[pairSize+capSize:]))
	t.shape = eris.NewShape(c.Size, t.length)
	if t.shape.Nodes() != pairs/pairSize || t.shape.Level() != int(c.Level) ||
		eris.Ref(tail[:32]) != c.Root || eris.Key(tail[32:64]) != c.Key {
		return fmt.Errorf("%w: tree file does not fit its read capability", eris.ErrCorrupt)
	}
	return nil
}

func (t *tree) close() error { return t.f.Close() }

// pairsAt reads the pairs of the nodes from on into dst.
func (t *tree) pairsAt(dst []byte, from int64) error {
	_, err := t.f.ReadAt(dst, int64(len(treeMagic))+from*pairSize)
	if err != nil {
		return fmt.Errorf("tree file: %w", err)
	}
	return nil
}

// load makes buf hold the pairs of the nodes from on.
func (t *tree) load(from int64) error {
	t.from, t.n = from, 0
	n := min(window, t.shape.Nodes()-from)
	if err := t.pairsAt(t.buf[:n*pairSize], from); err != nil {
		return err
	}
	t.n = n
	return nil
}

// pair returns what a node's parent says of it.
func (t *tree) pair(node int64) (ref eris.Ref, key eris.Key, err error) {
	if node < 0 || node >= t.shape.Nodes() {
		return ref, key, fmt.Errorf("tree file: no node %d: %w", node, io.EOF)
	}
	if node < t.from || node >= t.from+t.n {
		if err := t.load(node); err != nil {
			return ref, key, err
		}
	}
	b := t.buf[(node-t.from)*pairSize:]
	return eris.Ref(b[:32]), eris.Key(b[32:64]), nil
}

// ahead looks for a reference among the next nodes, one window at least,
// beginning with a node that is likely, and returns its number.
func (t *tree) ahead(ref eris.Ref, likely int64) (node int64, ok bool) {
	for range 2 {
		if likely >= t.shape.Nodes() {
			return 0, false
		}
		if _, _, err := t.pair(likely); err != nil {
			return 0, false
		}
		end := t.from + t.n
		for node := likely; node < end; node++ {
			if eris.Ref(t.buf[(node-t.from)*pairSize:][:32]) == ref {
				return node, true
			}
		}
		likely = end
	}
	return 0, false
}
