package narindex

import (
	"context"
	"encoding/binary"
	"errors"

	"ersatz/eris"
)

// Batch calls emit(i, block) for each reference in order, with a nil block for
// one that is not there. emit does not keep the block. References in the order
// of a tree cost one look-up per run. Batch holds the memory of a group and two
// open files. It returns the first error of emit.
func (x *Index) Batch(ctx context.Context, refs []eris.Ref, emit func(i int, block []byte) error) error {
	r := x.Reader(nil)
	defer r.Close()
	return r.Batch(ctx, refs, emit)
}

// Frames is Batch in the form in which blocks are sent (docs/batch.md): for each
// reference in order a length as 4 bytes, big-endian, and the block, or a length of
// 0. emit is given many of them at a time, and does not keep the bytes.
func (x *Index) Frames(ctx context.Context, refs []eris.Ref, emit func(frames []byte) error) error {
	r := x.Reader(nil)
	defer r.Close()
	return r.Frames(ctx, refs, emit)
}

// Batch is Index.Batch of what the Reader may read.
func (r *Reader) Batch(ctx context.Context, refs []eris.Ref, emit func(i int, block []byte) error) error {
	from := 0
	return r.each(ctx, refs, func(g *group) error {
		start := 0
		for i, s := range g.slots {
			block := g.frames[start+headSize : s.end]
			start = s.end
			switch {
			case s.gone:
				block = nil
			case s.bad:
				var err error
				if block, err = r.elsewhere(ctx, s.ref); err != nil {
					return err
				}
			}
			if err := emit(from+i, block); err != nil {
				return err
			}
		}
		from += len(g.slots)
		return nil
	})
}

// Frames is Index.Frames of what the Reader may read.
func (r *Reader) Frames(ctx context.Context, refs []eris.Ref, emit func(frames []byte) error) error {
	return r.each(ctx, refs, func(g *group) error {
		start, done := 0, 0 // of the slot's frame; of what was given to emit
		for _, s := range g.slots {
			if s.bad {
				block, err := r.elsewhere(ctx, s.ref)
				if err != nil {
					return err
				}
				whole := append(g.frames[done:start:start], binary.BigEndian.AppendUint32(nil, uint32(len(block)))...)
				if err := emit(append(whole, block...)); err != nil {
					return err
				}
				done = s.end
			}
			start = s.end
		}
		if done == start {
			return nil
		}
		return emit(g.frames[done:])
	})
}

// elsewhere looks for a block that could not be made of the first item that should
// have it. It returns nil if no other has it.
func (r *Reader) elsewhere(ctx context.Context, ref eris.Ref) ([]byte, error) {
	b, err := r.Get(ctx, ref)
	if errors.Is(err, eris.ErrNotFound) {
		return nil, nil
	}
	return b, err
}

// each makes the blocks of references by groups, and calls visit with each.
func (r *Reader) each(ctx context.Context, refs []eris.Ref, visit func(g *group) error) error {
	if r.group == nil {
		var ok bool
		if r.group, ok = r.x.groups.Get().(*group); !ok {
			r.group = newGroup()
		}
	}
	for len(refs) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.gather(ctx, refs); err != nil {
			return err
		}
		g := r.group
		g.make(r.cur)
		refs = refs[len(g.slots):]
		if err := visit(g); err != nil {
			return err
		}
	}
	return nil
}

// gather fills the group with the first references, at least one: as many as there is
// room for and the item that is open has, of blocks that somebody has.
func (r *Reader) gather(ctx context.Context, refs []eris.Ref) error {
	g := r.group
	g.reset()
	for _, ref := range refs {
		size := eris.Size32KiB
		if r.cur != nil {
			size = r.cur.cap.Size
		}
		if !g.room(size) {
			return nil
		}
		node, ok := int64(0), false
		if r.cur != nil {
			node, ok = r.cur.ahead(ref, r.next)
		}
		if !ok {
			if g.blocks > 0 {
				return nil // to find it may take another item
			}
			var err error
			if node, err = r.find(ctx, ref); errors.Is(err, eris.ErrNotFound) {
				g.lack(ref)
				continue
			} else if err != nil {
				return err
			}
			if size = r.cur.cap.Size; !g.room(size) {
				return nil // never with an empty group
			}
		}
		_, key, err := r.cur.pair(node)
		if err != nil {
			return err
		}
		g.add(size, node, ref, key)
		r.next = node + 1
	}
	return nil
}
