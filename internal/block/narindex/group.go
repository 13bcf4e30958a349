package narindex

import (
	"encoding/binary"

	"ersatz/eris"
)

// Blocks are made in groups: as many of 32 KiB as can be hashed at once, or as
// many of 1 KiB as there are pairs in a window. In memory: 330 KiB.
const (
	groupBytes  = 8 * int(eris.Size32KiB)
	groupBlocks = window
	plainBytes  = 2 * int(eris.Size32KiB) // of leaves that are read at once
	headSize    = 4                       // of the length before a block, as in docs/batch.md
)

// group is a row of frames that are made together: for each slot the length of
// its block and the block, or a length of 0.
type group struct {
	slots  []slot
	frames []byte
	blocks int // slots that are to have a block

	plain [plainBytes]byte
	made  [groupBlocks][]byte
	sums  [groupBlocks]eris.Ref
	of    [groupBlocks]int // slots that made and sums are of
}

// slot is the place of one block.
type slot struct {
	ref  eris.Ref
	key  eris.Key
	node int64
	end  int  // of its frame
	gone bool // nobody has the block: its frame is a length of 0
	bad  bool // the block could not be made, or is another one: its frame says nothing
}

func newGroup() *group {
	return &group{
		slots:  make([]slot, 0, groupBlocks),
		frames: make([]byte, 0, groupBytes+groupBlocks*headSize),
	}
}

func (g *group) reset() {
	g.slots, g.frames, g.blocks = g.slots[:0], g.frames[:0], 0
}

// room reports whether one more block of that size can be added.
func (g *group) room(size eris.BlockSize) bool {
	return len(g.slots) < groupBlocks && len(g.frames)+headSize+int(size) <= cap(g.frames)
}

// add adds a place for the block of a node. There is room for it.
func (g *group) add(size eris.BlockSize, node int64, ref eris.Ref, key eris.Key) {
	frames := binary.BigEndian.AppendUint32(g.frames, uint32(size))
	g.frames = frames[:len(frames)+int(size)]
	g.slots = append(g.slots, slot{ref: ref, key: key, node: node, end: len(g.frames)})
	g.blocks++
}

// lack adds a block that nobody has. There is room for it.
func (g *group) lack(ref eris.Ref) {
	g.frames = append(g.frames, make([]byte, headSize)...)
	g.slots = append(g.slots, slot{ref: ref, end: len(g.frames), gone: true})
}

// make makes the blocks, all of one item.
func (g *group) make(c *content) {
	if g.blocks == 0 {
		return
	}
	n, rest := 0, g.slots
	for len(rest) > 0 {
		row := c.row(rest)
		at := len(g.slots) - len(rest)
		for i := range g.plaintext(c, row) {
			s := &row[i]
			block := g.frames[s.end-int(c.cap.Size) : s.end]
			level, _ := c.shape.Locate(s.node)
			eris.Seal(block, g.plain[i*int(c.cap.Size):][:c.cap.Size], level, s.key)
			g.made[n], g.of[n] = block, at+i
			n++
		}
		rest = rest[len(row):]
	}
	eris.BlockRefs(g.sums[:n], g.made[:n])
	for i, at := range g.of[:n] {
		s := &g.slots[at]
		s.bad = g.sums[i] != s.ref
	}
}

// row returns the first of some slots and those after it whose plaintexts can be read
// together.
func (c *content) row(slots []slot) []slot {
	n, first := 1, slots[0]
	if first.gone || first.node >= c.shape.Leaves() {
		return slots[:n]
	}
	most := min(len(slots), plainBytes/int(c.cap.Size), int(c.shape.Leaves()-first.node))
	for n < most && !slots[n].gone && slots[n].node == first.node+int64(n) {
		n++
	}
	return slots[:n]
}

// plaintext reads the plaintexts of a row. It returns how many could be read; the
// others are bad.
func (g *group) plaintext(c *content, row []slot) int {
	if row[0].gone {
		return 0
	}
	n := 0
	if level, index := c.shape.Locate(row[0].node); level == 0 {
		n, _ = c.leaves(g.plain[:len(row)*int(c.cap.Size)], index) // who asks for the block hears of it
	} else if c.internal(g.plain[:c.cap.Size], level, index) == nil {
		n = 1
	}
	for i := range row[n:] {
		row[n+i].bad = true
	}
	return n
}
