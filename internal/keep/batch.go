package keep

import (
	"context"
	"encoding/binary"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/narindex"
)

// Batch calls emit(i, block) for each reference in order, with a nil block for
// one that is not there. emit does not keep the block. It holds what
// narindex.Index.Batch does, and a row of blocks of a part. It returns the first
// error of emit.
func (b *Blocks) Batch(ctx context.Context, refs []eris.Ref, emit func(i int, block []byte) error) error {
	return b.batch(ctx, refs,
		func(r *narindex.Reader, from, to int) error {
			return r.Batch(ctx, refs[from:to], func(i int, block []byte) error { return emit(from+i, block) })
		},
		func(i int, frame []byte) error { return emit(i, frame[headSize:]) })
}

// Frames is Batch in the form in which blocks are sent, as narindex.Index.Frames.
func (b *Blocks) Frames(ctx context.Context, refs []eris.Ref, emit func(frames []byte) error) error {
	return b.batch(ctx, refs,
		func(r *narindex.Reader, from, to int) error { return r.Frames(ctx, refs[from:to], emit) },
		func(_ int, frame []byte) error { return emit(frame) })
}

// batch gives blocks of parts to filled, as frames, and has kept give the others.
func (b *Blocks) batch(ctx context.Context, refs []eris.Ref,
	kept func(r *narindex.Reader, from, to int) error, filled func(i int, frame []byte) error) error {
	parts := b.parts()
	defer func() {
		for _, p := range parts {
			p.release() // the files were only read
		}
	}()
	index := b.items.reader()
	defer index.Close()
	var r *row
	for from := 0; from < len(refs); {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, to := first(parts, refs, from)
		if p == nil {
			if err := kept(index, from, to); err != nil {
				return err
			}
			from = to
			continue
		}
		if r == nil {
			var ok bool
			if r, ok = b.rows.Get().(*row); !ok {
				r = new(row)
			}
			defer b.rows.Put(r)
		}
		to = from + r.make(p, refs[from:to])
		for k := range to - from {
			err := error(nil)
			if r.right[k] {
				err = filled(from+k, r.frame(k))
			} else {
				err = kept(index, from+k, from+k+1)
			}
			if err != nil {
				return err
			}
		}
		from = to
	}
	return nil
}

// first returns the first part that has the block of a reference, and up to which
// one it has those after it. If no part has it, p is nil, up to the next one that
// some part has.
func first(parts []*Part, refs []eris.Ref, from int) (p *Part, to int) {
	to = from
	for ; to < len(refs); to++ {
		has := owner(parts, refs[to])
		if to == from {
			p = has
		} else if has != p {
			break
		}
	}
	return p, to
}

// owner returns the first part that should have a block, or nil.
func owner(parts []*Part, ref eris.Ref) *Part {
	for _, p := range parts {
		if _, ok := p.find(ref); ok {
			return p
		}
	}
	return nil
}

// A row is up to 8 blocks of a part, which are hashed together: for each a length in
// 4 bytes, big-endian, and the block, as docs/batch.md has it.
const (
	rowBlocks = 8
	headSize  = 4
)

type row struct {
	buf    [rowBlocks * (headSize + block.MaxSize)]byte
	size   int
	blocks [rowBlocks][]byte
	sums   [rowBlocks]eris.Ref
	right  [rowBlocks]bool
	refs   [rowBlocks]int // of blocks, which of the row they are
}

// make makes the first blocks of the references, and returns how many. right says
// which of them could be made.
func (r *row) make(p *Part, refs []eris.Ref) int {
	refs = refs[:min(len(refs), rowBlocks)]
	r.size = int(p.size)
	n := 0
	for k, ref := range refs {
		r.right[k] = false
		frame := r.frame(k)
		binary.BigEndian.PutUint32(frame, uint32(r.size))
		if p.seal(ref, frame[headSize:]) {
			r.blocks[n], r.refs[n] = frame[headSize:], k
			n++
		}
	}
	eris.BlockRefs(r.sums[:n], r.blocks[:n])
	for i, sum := range r.sums[:n] {
		k := r.refs[i]
		r.right[k] = sum == refs[k]
	}
	return len(refs)
}

func (r *row) frame(k int) []byte {
	one := headSize + r.size
	return r.buf[k*one : (k+1)*one]
}
