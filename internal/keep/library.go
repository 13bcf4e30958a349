package keep

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/narindex"
)

// library is what is kept and may be given to others.
type library struct {
	s     *Store
	allow func(Item) (magnet string, ok bool)

	mu   sync.Mutex
	said map[*entry]verdict // of what was kept when Each last ran, and since
}

// verdict is what allow said of an item.
type verdict struct {
	ok     bool
	shared block.Shared
}

// Library returns the items that allow says, and magnet links of theirs, "" for
// none; nil means all. Parts are not in it. Its order is that of hash parts. allow is asked once or a few times per item,
// from several goroutines at once: when its answers change, another Library is
// needed. An item of which a block was read in the last minute is not evicted;
// a content that is open can be read to its end all the same.
func (s *Store) Library(allow func(Item) (magnet string, ok bool)) block.Library {
	return &library{s: s, allow: allow, said: map[*entry]verdict{}}
}

// notifyLocked tells libraries that an item has come or gone. The caller has
// s.mu.
func (s *Store) notifyLocked() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// Changed implements block.Library.
func (l *library) Changed() <-chan struct{} {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.s.changed == nil {
		l.s.changed = make(chan struct{})
	}
	return l.s.changed
}

// Each implements block.Library. An item whose record cannot be read is left
// out: that is for fsck to say.
func (l *library) Each(ctx context.Context, visit func(block.Shared) error) error {
	l.s.mu.Lock()
	all := make([]*entry, 0, len(l.s.items))
	there := make(map[*entry]bool, len(l.s.items))
	for _, e := range l.s.items {
		all = append(all, e)
		there[e] = true
	}
	l.s.mu.Unlock()
	l.mu.Lock()
	for e := range l.said {
		if !there[e] {
			delete(l.said, e)
		}
	}
	l.mu.Unlock()
	slices.SortFunc(all, func(a, b *entry) int { return cmp.Compare(a.path.Hash, b.path.Hash) })
	for _, e := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if v := l.judge(e); v.ok {
			if err := visit(v.shared); err != nil {
				return err
			}
		}
	}
	return nil
}

// judge asks allow of an item, or remembers what it said.
func (l *library) judge(e *entry) verdict {
	l.mu.Lock()
	v, known := l.said[e]
	l.mu.Unlock()
	if known {
		return v
	}
	i, err := l.s.item(e)
	if err != nil {
		return verdict{}
	}
	v = verdict{ok: true, shared: block.Shared{ReadCap: i.ReadCap, Length: i.Size}}
	if l.allow != nil {
		v.shared.Magnet, v.ok = l.allow(i)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said[e] = v
	return v
}

// served returns the item with a hash part if it may be given, and notes that
// somebody wants blocks of it; else nil.
func (l *library) served(hash string) *entry {
	l.s.mu.Lock()
	e := l.s.items[hash]
	l.s.mu.Unlock()
	if e == nil || !l.judge(e).ok {
		return nil
	}
	l.s.served(e)
	return e
}

// served notes that blocks of an item are read.
func (s *Store) served(e *entry) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	e.served = now
}

func (l *library) reader() *narindex.Reader {
	return l.s.index.Reader(func(hash string) bool { return l.served(hash) != nil })
}

// Has reports whether Get would find a block, for far less than that costs.
func (l *library) Has(ctx context.Context, ref eris.Ref) (bool, error) {
	r := l.reader()
	defer r.Close()
	return r.Has(ctx, ref)
}

// Batch is Get for many, as narindex.Index.Batch.
func (l *library) Batch(ctx context.Context, refs []eris.Ref, emit func(i int, block []byte) error) error {
	r := l.reader()
	defer r.Close()
	return r.Batch(ctx, refs, emit)
}

// Frames is Batch in the form in which blocks are sent, as narindex.Index.Frames.
func (l *library) Frames(ctx context.Context, refs []eris.Ref, emit func(frames []byte) error) error {
	r := l.reader()
	defer r.Close()
	return r.Frames(ctx, refs, emit)
}

// Get implements block.Getter.
func (l *library) Get(ctx context.Context, ref eris.Ref) ([]byte, error) {
	r := l.reader()
	defer r.Close()
	b, err := r.Get(ctx, ref)
	return bytes.Clone(b), err
}

// Open implements block.Library.
func (l *library) Open(ctx context.Context, root eris.Ref) (block.Content, error) {
	var last *entry // the one that is opened in the end
	c, err := l.s.index.OpenRoot(ctx, root, func(hash string) bool {
		e := l.served(hash)
		if e != nil {
			last = e
		}
		return e != nil
	})
	if err != nil {
		return nil, err
	}
	return &sharedContent{Content: c, s: l.s, e: last}, nil
}

// sharedContent is a content whose item is not evicted while it is read.
type sharedContent struct {
	*narindex.Content
	s *Store
	e *entry
}

func (c *sharedContent) Block(ctx context.Context, place int64) (eris.Ref, []byte, error) {
	c.s.served(c.e)
	return c.Content.Block(ctx, place)
}
