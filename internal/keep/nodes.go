package keep

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"ersatz/eris"
)

// The file of a part's internal nodes is a row of entries of one size: "node",
// the level in 4 bytes and the index in 8, big-endian, and the node. A crash may leave
// holes in it and half an entry at its end. If a node comes twice, the last
// counts.
const (
	nodeMagic = "node"
	nodeHead  = 16
)

// readNodes finds the internal nodes in the file.
func (p *Part) readNodes() error {
	fi, err := p.nodes.Stat()
	if err != nil {
		return err
	}
	one := int64(nodeHead + p.size)
	var head [nodeHead]byte
	for off := int64(0); off+one <= fi.Size(); off += one {
		if _, err := p.nodes.ReadAt(head[:], off); err != nil {
			return err
		}
		p.filled.tail = off + one
		level, index := binary.BigEndian.Uint32(head[4:]), binary.BigEndian.Uint64(head[8:])
		if string(head[:4]) != nodeMagic || level > 255 || index > 1<<56-1 || p.check(int(level), int64(index)) != nil {
			continue
		}
		p.filled.nodes[makeID(int(level), int64(index))] = off + nodeHead
	}
	return nil
}

// check refuses nodes that no tree of the part's content has.
func (p *Part) check(level int, index int64) error {
	if p.size == 0 {
		return fmt.Errorf("keep: part of %s takes no blocks", p.about.Item.Path)
	}
	if level < 0 || level > int(p.about.Item.ReadCap.Level) || index < 0 || index > p.limit/int64(p.size) {
		return fmt.Errorf("keep: part of %s: node %d of level %d: %w of %d bytes", p.about.Item.Path, index, level, eris.ErrTooLong, p.limit)
	}
	return nil
}

// Load reads what stands at a node's place into buf, which has the size of a
// block, and reports whether there is anything. It is not verified.
func (p *Part) Load(level int, index int64, buf []byte) (bool, error) {
	if err := p.check(level, index); err != nil || len(buf) != int(p.size) {
		return false, errors.Join(err, p.wrongSize(buf))
	}
	if level > 0 {
		p.mu.Lock()
		off, ok := p.filled.nodes[makeID(level, index)]
		p.mu.Unlock()
		if !ok {
			return false, nil
		}
		return p.loaded(p.nodes.ReadAt(buf, off))
	}
	off := index * int64(p.size)
	if p.content.Hole(off, int64(p.size)) {
		return false, nil
	}
	n, err := p.content.ReadAt(buf, off)
	if errors.Is(err, io.EOF) && n > 0 && n < len(buf) {
		// The last leaf, whose padding a Commit that failed has cut off.
		eris.Leaf(buf, buf[:n])
		err = nil
	}
	return p.loaded(n, err)
}

func (p *Part) loaded(n int, err error) (bool, error) {
	switch {
	case errors.Is(err, io.EOF):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("keep: part of %s: %w", p.about.Item.Path, err)
	}
	return n > 0, nil
}

func (p *Part) wrongSize(b []byte) error {
	if len(b) != int(p.size) {
		return fmt.Errorf("keep: part of %s: a node has %d bytes, not %d", p.about.Item.Path, p.size, len(b))
	}
	return nil
}

// Store keeps a node.
func (p *Part) Store(level int, index int64, node []byte) error {
	if err := errors.Join(p.check(level, index), p.wrongSize(node)); err != nil {
		return err
	}
	if level > 0 {
		return p.storeInner(makeID(level, index), node)
	}
	n, err := p.content.WriteAt(node, index*int64(p.size))
	if err == nil {
		p.leaf(index)
	}
	return p.stored(int64(n), err)
}

func (p *Part) storeInner(id nodeID, node []byte) error {
	b := make([]byte, nodeHead, nodeHead+len(node))
	copy(b, nodeMagic)
	binary.BigEndian.PutUint32(b[4:], uint32(id.level()))
	binary.BigEndian.PutUint64(b[8:], uint64(id.index()))
	b = append(b, node...)
	p.mu.Lock()
	off, resets := p.filled.tail, p.resets
	p.filled.tail += int64(len(b))
	p.mu.Unlock()
	n, err := p.nodes.WriteAt(b, off)
	if err == nil {
		p.mu.Lock()
		if p.resets == resets {
			p.filled.nodes[id] = off + nodeHead
		}
		p.mu.Unlock()
	}
	return p.stored(int64(n), err)
}

func (p *Part) stored(n int64, err error) error {
	p.grown(n)
	if err != nil {
		return fmt.Errorf("keep: part of %s: %w", p.about.Item.Path, err)
	}
	return nil
}

// leaf notes that a leaf is there.
func (p *Part) leaf(index int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := &p.filled
	f.stored.set(index)
	f.top = max(f.top, index+1)
	for f.stored.has(f.front) {
		f.front++
	}
	p.notify() // also one further behind shows that the leaf at the front is not the last
}

// Done says that a node is there and right. From now on its block is served.
func (p *Part) Done(level int, index int64, ref eris.Ref, _ eris.Key) {
	if p.check(level, index) != nil {
		return
	}
	if level == 0 {
		p.leaf(index)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if level == 0 {
		p.filled.done.set(index)
	}
	k := binary.NativeEndian.Uint64(ref[:])
	if _, ok := p.filled.served[k]; !ok && len(p.filled.served) < maxServed {
		p.filled.served[k] = makeID(level, index)
	}
}

// find returns the node whose block a reference names, if it is right. Its first bytes
// may be those of another one.
func (p *Part) find(ref eris.Ref) (nodeID, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, ok := p.filled.served[binary.NativeEndian.Uint64(ref[:])]
	return id, ok
}

// seal makes the block named ref in buf, which is one block size long, if the part
// has it. Whether it is that block is for the caller to find out.
func (p *Part) seal(ref eris.Ref, buf []byte) bool {
	id, ok := p.find(ref)
	if !ok {
		return false
	}
	key, ok := p.key(id, ref, buf[:pairSize])
	if !ok {
		return false
	}
	if found, err := p.Load(id.level(), id.index(), buf); !found || err != nil {
		return false
	}
	eris.Seal(buf, buf, id.level(), key)
	return true
}

// pairSize is what a node has of each child: a reference and a key.
const pairSize = 64

// key returns the key of a node from the pair in its parent, which it reads into
// pair, if that has ref.
func (p *Part) key(id nodeID, ref eris.Ref, pair []byte) (key eris.Key, ok bool) {
	c := p.about.Item.ReadCap
	if id.level() == int(c.Level) {
		return c.Key, c.Root == ref
	}
	arity := int64(p.size.Arity())
	p.mu.Lock()
	off, ok := p.filled.nodes[makeID(id.level()+1, id.index()/arity)]
	p.mu.Unlock()
	if !ok {
		return key, false
	}
	if _, err := p.nodes.ReadAt(pair, off+id.index()%arity*int64(len(pair))); err != nil {
		return key, false
	}
	return eris.Key(pair[32:]), eris.Ref(pair[:32]) == ref
}

// leaves returns the leaves that were verified.
func (p *Part) leaves() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]byte(nil), p.filled.done...)
}
