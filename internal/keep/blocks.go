package keep

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"

	"ersatz/eris"
)

// Blocks are the blocks of what is kept, as n2r.Handler wants them, and of the
// parts that somebody has. It is safe for concurrent use.
type Blocks struct {
	s     *Store
	allow func(Item) bool
	items *library // those that allow says

	said memo[uint64, bool] // what allow has said of parts, by their numbers
	rows sync.Pool          // of *row
}

// Blocks returns the blocks of those items and parts that allow says; nil means
// all. allow is asked once or a few times per item, from several goroutines at
// once: when its answers change, another Blocks is needed.
func (s *Store) Blocks(allow func(Item) bool) *Blocks {
	b := &Blocks{s: s, allow: allow, items: &library{s: s}}
	if allow != nil {
		b.items.allow = func(i Item) (string, bool) { return "", allow(i) }
	}
	return b
}

// Get returns the block named ref; the caller owns it. The error matches
// eris.ErrNotFound if it is not there.
func (b *Blocks) Get(ctx context.Context, ref eris.Ref) (got []byte, err error) {
	err = b.Batch(ctx, []eris.Ref{ref}, func(_ int, block []byte) error {
		got = bytes.Clone(block)
		return nil
	})
	if err == nil && got == nil {
		err = &eris.MissingError{Ref: ref}
	}
	return got, err
}

// parts returns the parts whose blocks may be served; the caller releases them.
func (b *Blocks) parts() (open []*Part) {
	b.s.mu.Lock()
	var all []*Part
	for _, p := range b.s.parts {
		if p != nil && p.size != 0 {
			all = append(all, p)
		}
	}
	b.s.mu.Unlock()
	for _, p := range all {
		if b.allowed(p) && p.retain() {
			open = append(open, p)
		}
	}
	return open
}

// unlessNone returns an error but for one that says that an item is not kept.
func unlessNone(err error) error {
	if errors.Is(err, ErrNone) {
		return nil
	}
	return err
}

// allowed asks allow of a part, or remembers what it said.
func (b *Blocks) allowed(p *Part) bool {
	if b.allow == nil {
		return true
	}
	ok, known := b.said.get(p.number)
	if !known {
		ok = b.allow(p.about.Item)
		b.said.put(p.number, ok)
	}
	return ok
}

// item returns an item with a nar among what allow says. The error matches ErrNone.
func (b *Blocks) item(narHash [32]byte) (Item, error) {
	entries, err := b.s.withNar(narHash)
	errs := []error{err}
	for _, e := range entries {
		e, err := b.items.allowed(e.path.Hash)
		if e != nil {
			var i Item
			if i, err = b.s.Get(e.path.Hash); err == nil && i.NarHash == narHash {
				return i, nil
			}
		}
		errs = append(errs, unlessNone(err))
	}
	return Item{}, cmp.Or(errors.Join(errs...), ErrNone)
}

// Have returns what there is of a nar among what allow says: an item, or else
// the part of which most is there. Nars that come without a read capability are
// none before they are items.
func (b *Blocks) Have(narHash [32]byte) (h Held, ok bool) {
	i, err := b.item(narHash)
	if err == nil {
		return Held{ReadCap: i.ReadCap, Format: i.Format}, true
	}
	if !errors.Is(err, ErrNone) {
		b.s.log.Warn("who asks is told that a nar is not kept", slog.Any("error", err))
	}
	most := int64(0)
	for _, p := range b.parts() {
		i := p.about.Item
		if i.NarHash == narHash && plain(i.ReadCap) {
			leaves := p.leaves()
			if n := bitmap(leaves).count(); n > most {
				h, most = Held{ReadCap: i.ReadCap, Format: i.Format, Part: true, Leaves: leaves}, n
			}
		}
		p.release() // the files were only read
	}
	return h, most > 0
}
