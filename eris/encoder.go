package eris

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
)

// Block is a block as the encoder makes it. Data and Node are valid until the
// function that got it returns.
type Block struct {
	Ref   Ref
	Key   Key
	Level int    // 0 for a leaf
	Index int64  // counts the nodes of a level, from the left
	Data  []byte // ciphertext, one block size
	Node  []byte // plaintext: padded content of a leaf, pairs of an internal node
}

// maxWorkers bounds the goroutines of an Encoder: by then, reading the content and
// taking the blocks are the limit.
const maxWorkers = 8

// Encoder encodes a content that is written to it. It works in batches of 256 KiB:
// blocks are emitted when a batch is full, or several are, and at the end. Content
// shorter than that is encoded by the goroutine of the caller, and takes some
// three times its length in memory. Longer content is sealed by as many goroutines as
// there are cores, 8 at most, each at a batch; with two batches more, one that waits
// for them and one that is being filled, they take 0.6 MiB each, whatever the
// content's length. No goroutine waits for the caller, so that an Encoder may be
// dropped at any time. It is not safe for concurrent use.
type Encoder struct {
	size    BlockSize
	secret  Secret
	emit    func(Block) error
	crew    crew         // of 1, the caller does its work
	batch   *leafBatch   // that is being filled
	started []*leafBatch // that were given to the crew, oldest first
	free    []*leafBatch
	levels  []upper // by level
	parent  sealed  // of the last nodes of level 0 to come, if it was made along with them
	kept    sealed  // memory for a parent whose batch is used again
	own     sealing // an internal node that comes alone
	nonce   nonce   // of its level
	n       int64
	err     error
}

// upper is what an Encoder knows of a level.
type upper struct {
	count int64  // nodes that were emitted
	pairs []byte // of the last ones, which have no parent yet
}

var errFinished = errors.New("eris: encoder has finished")

// NewEncoder returns an Encoder that hands each block to emit, children before
// their parent, leaves from the left. A block may come more than once: blocks
// are a set. emit is called by the goroutine that calls Write, ReadFrom or Finish.
// It may be nil, when only the read capability is wanted. An error of emit ends
// the encoding.
func NewEncoder(size BlockSize, secret Secret, emit func(Block) error) *Encoder {
	if !size.Valid() {
		panic(fmt.Sprintf("eris: block size %d", int(size)))
	}
	return &Encoder{
		size: size, secret: secret, emit: emit, batch: newLeafBatch(size, secret, int(size)),
		crew: crew{most: min(runtime.GOMAXPROCS(0), runtime.NumCPU(), maxWorkers)},
		own:  sealing{size: int(size)},
	}
}

// Alone has the goroutine of the caller do all of the work: for where each processor
// has a content of its own. It is called before anything is written.
func (e *Encoder) Alone() { e.crew.most = 1 }

// Encode encodes all of r. It returns the read capability and the content's
// length in bytes.
func Encode(r io.Reader, size BlockSize, secret Secret, emit func(Block) error) (ReadCap, int64, error) {
	e := NewEncoder(size, secret, emit)
	if _, err := e.ReadFrom(r); err != nil {
		e.settle()
		return ReadCap{}, e.n, err
	}
	c, err := e.Finish()
	return c, e.n, err
}

// Write adds p to the content.
func (e *Encoder) Write(p []byte) (int, error) {
	written := 0
	for e.err == nil && written < len(p) {
		written += e.grow(copy(e.room(), p[written:]))
	}
	return written, e.err
}

// ReadFrom adds all of r to the content, reading into the leaves themselves.
func (e *Encoder) ReadFrom(r io.Reader) (int64, error) {
	start := e.n
	for e.err == nil {
		n, err := io.ReadFull(r, e.room())
		e.grow(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return e.n - start, fmt.Errorf("eris: reading content: %w", err)
		}
	}
	return e.n - start, e.err
}

// Finish pads the content, encodes what is left and returns the read
// capability. The Encoder cannot be used afterwards.
func (e *Encoder) Finish() (ReadCap, error) {
	e.room()
	if e.err != nil {
		return ReadCap{}, e.err
	}
	leaves := &e.batch.leaves
	n := len(leaves.nodes)
	whole := n / int(e.size) * int(e.size)
	leaves.nodes = leaves.nodes[:whole+int(e.size)]
	Leaf(leaves.nodes[whole:], leaves.nodes[whole:n])
	e.batch.seal()
	for e.err == nil && len(e.started) > 0 {
		e.takeOldest()
	}
	e.take(e.batch)
	for level := 0; e.err == nil; level++ {
		pairs := e.levels[level].pairs
		if level == len(e.levels)-1 && len(pairs) == pairSize {
			c := ReadCap{Size: e.size, Level: uint8(level)}
			copy(c.Root[:], pairs)
			copy(c.Key[:], pairs[32:])
			e.err = errFinished
			e.settle()
			return c, nil
		}
		e.collapse(level)
	}
	e.settle()
	return ReadCap{}, e.err
}

// room returns where content goes, a part of the batch at hand, which grow then
// adds. It may have to wait for one, and emits blocks then. After an error it
// returns nothing.
func (e *Encoder) room() []byte {
	if e.err != nil {
		return nil
	}
	if room := e.batch.room(); len(room) > 0 {
		return room
	}
	b := e.batch
	e.batch = nil
	if e.crew.most == 1 {
		b.seal()
		e.take(b)
		e.free = append(e.free, b)
	} else {
		e.crew.add(b)
		e.started = append(e.started, b)
	}
	for e.err == nil && len(e.started) > e.crew.most+1 { // one waits for who is ready first
		e.takeOldest()
	}
	if e.err != nil {
		e.settle()
		return nil
	}
	if n := len(e.free); n > 0 {
		e.batch, e.free = e.free[n-1], e.free[:n-1]
		e.batch.leaves.nodes = e.batch.leaves.nodes[:0]
	} else {
		e.batch = newLeafBatch(e.size, e.secret, batchBytes)
	}
	return e.batch.room()
}

// grow adds n bytes that were put into the room.
func (e *Encoder) grow(n int) int {
	if n > 0 {
		e.batch.leaves.nodes = e.batch.leaves.nodes[:len(e.batch.leaves.nodes)+n]
		e.n += int64(n)
	}
	return n
}

// takeOldest emits the batch that was started first, when it is sealed.
func (e *Encoder) takeOldest() {
	b := e.started[0]
	e.started = slices.Delete(e.started, 0, 1)
	<-b.done
	e.take(b)
	e.free = append(e.free, b)
}

// settle gives up the batches that are not wanted any more.
func (e *Encoder) settle() {
	e.crew.stop()
	e.started = nil
}

// take emits the leaves of a batch, and what goes above them.
func (e *Encoder) take(b *leafBatch) {
	arity := e.size.Arity()
	for i := range b.leaves.refs {
		if e.err != nil {
			return
		}
		e.add(0, b.leaves.at(i))
		if parent := (i + 1) / arity; (i+1)%arity == 0 {
			e.parent = b.parents.at(parent - 1)
		}
	}
	if e.err == nil && e.parent.node != nil {
		k := &e.kept
		k.ref, k.key = e.parent.ref, e.parent.key
		k.block, k.node = append(k.block[:0], e.parent.block...), append(k.node[:0], e.parent.node...)
		e.parent = *k
	}
}

// add emits a node and puts its pair into the level. A full level is collapsed
// only when one more pair comes, so that a content of exactly arity nodes gets no
// node too many.
func (e *Encoder) add(level int, s sealed) {
	if level == len(e.levels) {
		e.levels = append(e.levels, upper{})
	}
	l := &e.levels[level]
	index := l.count
	l.count++
	if e.emit != nil {
		b := Block{Ref: s.ref, Key: s.key, Level: level, Index: index, Data: s.block, Node: s.node}
		if err := e.emit(b); err != nil {
			e.err = fmt.Errorf("eris: block %s: %w", s.ref, err)
			return
		}
	}
	if len(l.pairs) == int(e.size) {
		if e.collapse(level); e.err != nil {
			return
		}
		l = &e.levels[level]
	}
	if len(l.pairs) > 0 { // one of one pair is all that a short content needs
		l.pairs = slices.Grow(l.pairs, int(e.size)-len(l.pairs))
	}
	l.pairs = append(append(l.pairs, s.ref[:]...), s.key[:]...)
}

// collapse makes the pairs of a level into a node of the next.
func (e *Encoder) collapse(level int) {
	l := &e.levels[level]
	if p := e.parent; level == 0 && p.node != nil {
		l.pairs = l.pairs[:0]
		e.parent = sealed{}
		e.add(1, p)
		return
	}
	n := len(l.pairs)
	e.own.nodes = slices.Grow(l.pairs, int(e.size)-n)[:e.size]
	clear(e.own.nodes[n:])
	l.pairs = e.own.nodes[:0]
	e.nonce = levelNonce(level + 1)
	e.own.seal(&e.nonce, nil)
	e.add(level+1, e.own.at(0))
}
