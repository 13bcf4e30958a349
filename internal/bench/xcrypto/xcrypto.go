// Package xcrypto encodes and decodes ERIS 1.0.0 as one would from the
// specification alone: a plain loop over the calls of golang.org/x/crypto, in one
// goroutine. It shares no code with package eris but types. It is what the speed of
// eris is measured by, and a second opinion on its results in tests.
package xcrypto

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20"

	"ersatz/eris"
)

// pair is a reference and a key, as internal nodes hold them.
const pair = 64

// Encode encodes all of r and hands each block to emit, which may keep neither
// slice nor reference, children before their parent.
func Encode(r io.Reader, size eris.BlockSize, secret eris.Secret, emit func(ref eris.Ref, block []byte) error) (eris.ReadCap, error) {
	e := encoder{size: int(size), block: make([]byte, size), emit: emit}
	keyed, err := blake2b.New256(secret[:])
	if err != nil {
		return eris.ReadCap{}, err
	}
	node := make([]byte, size)
	for last := false; !last; {
		n, err := io.ReadFull(r, node)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			last = true
			node[n] = 0x80
			clear(node[n+1:])
		} else if err != nil {
			return eris.ReadCap{}, err
		}
		keyed.Reset()
		keyed.Write(node)
		var key [32]byte
		keyed.Sum(key[:0])
		if err := e.node(0, node, key); err != nil {
			return eris.ReadCap{}, err
		}
	}
	return e.finish()
}

type encoder struct {
	size   int
	block  []byte
	levels [][]byte // pairs of nodes that have no parent yet, by level
	emit   func(eris.Ref, []byte) error
}

// node encrypts a node and puts its pair into the level's.
func (e *encoder) node(level int, node []byte, key [32]byte) error {
	if err := xor(e.block, node, level, key); err != nil {
		return err
	}
	ref := blake2b.Sum256(e.block)
	if err := e.emit(ref, e.block); err != nil {
		return err
	}
	if level == len(e.levels) {
		e.levels = append(e.levels, make([]byte, 0, e.size))
	}
	if len(e.levels[level]) == e.size {
		if err := e.parent(level); err != nil {
			return err
		}
	}
	e.levels[level] = append(append(e.levels[level], ref[:]...), key[:]...)
	return nil
}

// parent makes the pairs of a level into a node of the next.
func (e *encoder) parent(level int) error {
	n := len(e.levels[level])
	node := e.levels[level][:e.size]
	clear(node[n:])
	e.levels[level] = node[:0]
	return e.node(level+1, node, blake2b.Sum256(node))
}

func (e *encoder) finish() (eris.ReadCap, error) {
	level := 0
	for ; level < len(e.levels)-1 || len(e.levels[level]) > pair; level++ {
		if err := e.parent(level); err != nil {
			return eris.ReadCap{}, err
		}
	}
	c := eris.ReadCap{Size: eris.BlockSize(e.size), Level: uint8(level)}
	copy(c.Root[:], e.levels[level])
	copy(c.Key[:], e.levels[level][len(c.Root):])
	return c, nil
}

// Decode writes the content of c to w. get returns a block, which is verified and
// may be used again by the next call.
func Decode(w io.Writer, c eris.ReadCap, get func(eris.Ref) ([]byte, error)) error {
	d := decoder{w: w, get: get}
	for range int(c.Level) + 1 {
		d.nodes = append(d.nodes, make([]byte, c.Size))
	}
	if err := d.tree(int(c.Level), c.Root, c.Key); err != nil {
		return err
	}
	content := bytes.TrimRight(d.nodes[0], "\x00")
	if !d.held || len(content) == 0 || content[len(content)-1] != 0x80 {
		return errors.New("no padding")
	}
	_, err := w.Write(content[:len(content)-1])
	return err
}

type decoder struct {
	w     io.Writer
	get   func(eris.Ref) ([]byte, error)
	nodes [][]byte // the node at hand, by level
	held  bool     // nodes[0] is a leaf that is not written: it may be the last
}

func (d *decoder) tree(level int, ref eris.Ref, key eris.Key) error {
	if level == 0 && d.held {
		if _, err := d.w.Write(d.nodes[0]); err != nil {
			return err
		}
	}
	block, err := d.get(ref)
	if err != nil {
		return err
	}
	node := d.nodes[level]
	if len(block) != len(node) || blake2b.Sum256(block) != ref {
		return fmt.Errorf("block %s is wrong", ref)
	}
	if err := xor(node, block, level, key); err != nil {
		return err
	}
	if level == 0 {
		d.held = true
		return nil
	}
	for ; len(node) > 0; node = node[pair:] {
		var ref eris.Ref
		var key eris.Key
		copy(ref[:], node)
		copy(key[:], node[len(ref):])
		if ref == (eris.Ref{}) {
			break
		}
		if err := d.tree(level-1, ref, key); err != nil {
			return err
		}
	}
	return nil
}

func xor(dst, src []byte, level int, key [32]byte) error {
	c, err := chacha20.NewUnauthenticatedCipher(key[:], append([]byte{byte(level)}, make([]byte, 11)...))
	if err != nil {
		return err
	}
	c.XORKeyStream(dst, src)
	return nil
}
