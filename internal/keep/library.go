package keep

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"sync"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/narindex"
)

// library is what is kept and may be given to others.
type library struct {
	s     *Store
	allow func(Item) (magnet string, ok bool)
	judge string
	said  memo[version, verdict] // what allow has said
}

// maxSaid bounds the answers that a memo has.
const maxSaid = 1 << 14

// memo remembers answers. It is safe for concurrent use.
type memo[K comparable, V any] struct {
	mu   sync.Mutex
	said map[K]V
}

func (m *memo[K, V]) get(k K) (v V, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, known = m.said[k]
	return v, known
}

func (m *memo[K, V]) put(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.said == nil || len(m.said) >= maxSaid {
		m.said = map[K]V{}
	}
	m.said[k] = v
}

// version is an item as it came at a time: another one may come in its place.
type version struct {
	hash string
	came int64 // in Unix nanoseconds
}

func (e *entry) version() version { return version{e.path.Hash, e.came.UnixNano()} }

// verdict is what allow said of an item.
type verdict struct {
	ok     bool
	shared block.Shared
}

// Library returns the items that allow says, and magnet links of theirs, "" for
// none; nil means all. Parts are not in it. Its order is that of hash parts. allow
// is asked from several goroutines at once, and of an item again and again: when its
// answers change, another Library is needed. What it says of which items there are is
// remembered for other processes, under a name that is another one when the answers
// are; "" for not. An item of which a block was read in the last minute is not
// evicted; a content that is open can be read to its end all the same.
func (s *Store) Library(allow func(Item) (magnet string, ok bool), judge string) block.Library {
	return &library{s: s, allow: allow, judge: judge}
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

// Each implements block.Library. What is not whole is left out when that is known.
// After an item that cannot be read the others follow, and then the error.
func (l *library) Each(ctx context.Context, visit func(block.Shared) error) error {
	if l.judge != "" {
		if err := l.s.cards.judgedBy(ctx, l.judge); err != nil {
			return err
		}
	}
	var unread error // the first of what could not be read
	for after, more := "", true; more; {
		page, err := l.s.cards.judgedPage(ctx, after)
		if err != nil {
			return err
		}
		var fresh []judged
		for _, j := range page {
			if err := ctx.Err(); err != nil {
				return err
			}
			if !j.known || l.judge == "" {
				var found bool
				var err error
				if j.verdict, found, err = l.ask(j.version); err != nil {
					unread = cmp.Or(unread, err)
				}
				if found && (!j.verdict.ok || plain(j.verdict.shared.ReadCap)) {
					fresh = append(fresh, j)
				}
			}
			if j.verdict.ok {
				if err := visit(j.verdict.shared); err != nil {
					return err
				}
			}
			after = j.hash
		}
		if l.judge != "" {
			if err := l.s.cards.say(ctx, fresh); err != nil {
				return err
			}
		}
		more = len(page) == pageCards
	}
	return unread
}

// ask asks allow of an item, or remembers what it said. found is false if that is not
// kept, or is another one by now.
func (l *library) ask(what version) (v verdict, found bool, err error) {
	v, known := l.said.get(what)
	if known {
		return v, true, nil
	}
	e, i, err := l.s.get(what.hash)
	if err != nil || e.version() != what {
		return verdict{}, false, unlessNone(err)
	}
	v = verdict{ok: true, shared: block.Shared{ReadCap: i.ReadCap, Length: i.Size}}
	if l.allow != nil {
		v.shared.Magnet, v.ok = l.allow(i)
	}
	l.said.put(what, v)
	return v, true, nil
}

// allowed returns the item with a hash part if it may be given; else nil.
func (l *library) allowed(hash string) (*entry, error) {
	for {
		e, err := l.s.lookup(hash)
		if err != nil {
			return nil, unlessNone(err)
		}
		v, found, err := l.ask(e.version())
		switch {
		case v.ok:
			return e, nil
		case found || err != nil:
			return nil, err
		}
		// It has gone since, and another one may have come.
	}
}

// served is allowed, and notes that somebody wants blocks of the item.
func (l *library) served(hash string) (*entry, error) {
	e, err := l.allowed(hash)
	if e == nil {
		return nil, err
	}
	return l.s.served(e), nil
}

// served notes that blocks of an item are read, and returns its entry: another one
// if it was forgotten meanwhile.
func (s *Store) served(e *entry) *entry {
	if !s.knows(e) {
		now, err := s.lookup(e.path.Hash)
		if err != nil || !now.came.Equal(e.came) {
			return e // it has gone, and what is open can still be read
		}
		e = now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.served = s.now()
	return e
}

// reader returns a reader of what may be given; its error is that of reading, unless
// another item has the block.
func (l *library) reader() (r *narindex.Reader) {
	r = l.s.index.Reader(func(hash string) bool {
		e, err := l.served(hash)
		if err != nil {
			r.Fail(err)
		}
		return e != nil
	})
	return r
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
	var fault error
	c, err := l.s.index.OpenRoot(ctx, root, func(hash string) bool {
		e, err := l.served(hash)
		fault = cmp.Or(fault, err)
		if e != nil {
			last = e
		}
		return e != nil
	})
	if fault != nil && errors.Is(err, eris.ErrNotFound) {
		return nil, fault
	}
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
	c.e = c.s.served(c.e)
	return c.Content.Block(ctx, place)
}
