package bake

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"strings"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/narindex"
	"ersatz/storepath"
)

// library is what of a cache may be given to others.
type library struct {
	c     *Cache
	ahead bool // only what BakeAhead is told
}

// Library returns all that is baked. Its order is that of hash parts.
func (c *Cache) Library() block.Library { return library{c: c} }

// RootsLibrary returns what is baked of the closures that BakeAhead is told to
// bake, as they are now, and nothing that only a client has asked for. Each
// waits until they are known for the first time.
func (c *Cache) RootsLibrary() block.Library { return library{c: c, ahead: true} }

// ahead is what the names that BakeAhead was given refer to.
type ahead struct {
	hashes map[string]struct{} // hash parts
	known  chan struct{}       // closed when hashes was set for the first time
	moved  chan struct{}       // closed when it is set again
}

// setAhead notes what the names refer to now.
func (c *Cache) setAhead(paths []storepath.Path) {
	hashes := make(map[string]struct{}, len(paths))
	for _, p := range paths {
		hashes[p.Hash] = struct{}{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.ahead.hashes == nil
	if !first && maps.Equal(hashes, c.ahead.hashes) {
		return
	}
	c.ahead.hashes = hashes
	if first {
		close(c.ahead.known)
	} else {
		close(c.ahead.moved)
		c.ahead.moved = make(chan struct{})
	}
	c.notifyLocked()
}

// isAhead reports whether the names refer to an item; no if that is not known yet.
func (c *Cache) isAhead(hash string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.ahead.hashes[hash]
	return ok
}

// aheadMoved returns a channel that is closed when the names refer to something
// else.
func (c *Cache) aheadMoved() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ahead.moved
}

// notify tells libraries that an item has come or gone.
func (c *Cache) notify() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notifyLocked()
}

func (c *Cache) notifyLocked() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// Changed implements block.Library.
func (l library) Changed() <-chan struct{} {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	if l.c.changed == nil {
		l.c.changed = make(chan struct{})
	}
	return l.c.changed
}

// allow reports whether the blocks of an item may be read.
func (l library) allow(hash string) bool {
	return !l.ahead || l.c.isAhead(hash)
}

// Get implements block.Getter.
func (l library) Get(ctx context.Context, ref eris.Ref) ([]byte, error) {
	r := l.c.index.Reader(l.allow)
	defer r.Close()
	b, err := r.Get(ctx, ref)
	return bytes.Clone(b), err
}

// Has reports whether Get would find a block, for far less than that costs.
func (l library) Has(ctx context.Context, ref eris.Ref) (bool, error) {
	r := l.c.index.Reader(l.allow)
	defer r.Close()
	return r.Has(ctx, ref)
}

// Batch is Get for many, as narindex.Index.Batch.
func (l library) Batch(ctx context.Context, refs []eris.Ref, emit func(i int, block []byte) error) error {
	r := l.c.index.Reader(l.allow)
	defer r.Close()
	return r.Batch(ctx, refs, emit)
}

// Frames is Batch in the form in which blocks are sent, as narindex.Index.Frames.
func (l library) Frames(ctx context.Context, refs []eris.Ref, emit func(frames []byte) error) error {
	r := l.c.index.Reader(l.allow)
	defer r.Close()
	return r.Frames(ctx, refs, emit)
}

// Open implements block.Library.
func (l library) Open(ctx context.Context, root eris.Ref) (block.Content, error) {
	c, err := l.c.index.OpenRoot(ctx, root, l.allow)
	if err != nil {
		return nil, err // no *narindex.Content that is nil
	}
	hash, _, _ := strings.Cut(c.Base(), "-")
	return &content{c, l, hash}, nil
}

// content is a content that is read only as long as it may be: to put it into a
// network takes its time.
type content struct {
	*narindex.Content
	l    library
	hash string
}

// Block implements block.Content.
func (c *content) Block(ctx context.Context, place int64) (eris.Ref, []byte, error) {
	ref, b, err := c.Content.Block(ctx, place)
	if err == nil && !c.l.allow(c.hash) {
		return ref, nil, &eris.MissingError{Ref: ref}
	}
	return ref, b, err
}

// Each implements block.Library. An item that is broken is left out: that is for
// fsck to say.
func (l library) Each(ctx context.Context, visit func(block.Shared) error) error {
	if l.ahead {
		select {
		case <-l.c.ahead.known:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for i, err := range l.c.index.Items(ctx) {
		if err != nil {
			return err
		}
		if !l.allow(i.Hash) || !l.c.has(i.Hash) {
			continue
		}
		rc, length, err := l.c.index.Shape(i)
		if err != nil {
			l.c.log.DebugContext(ctx, "not shared", slog.String("item", i.Base), slog.Any("error", err))
			continue
		}
		x := block.Shared{ReadCap: rc, Length: length}
		if l.c.torrents() {
			x.Magnet = l.c.magnet(i.Hash)
		}
		if err := visit(x); err != nil {
			return err
		}
	}
	return nil
}
