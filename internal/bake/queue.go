package bake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"ersatz/internal/folder"
	"ersatz/internal/storedb"
	"ersatz/storepath"
)

// How long it takes until an item that could not be baked is tried again: one
// whose files are not what the database says, and one that met a full disk or
// the like.
const (
	brokenFor = time.Hour
	delayFor  = 5 * time.Minute
)

// maxFailures bounds what is remembered of items that could not be baked.
const maxFailures = 4096

// failure is an attempt that failed.
type failure struct {
	err   error // what Bake answers: ErrFailed or ErrBusy
	until time.Time
}

// Run bakes what is queued, puts it into IPFS, lets entries expire, and adds the
// signature of Nix and the magnet link where they are missing in what was baked
// before, until ctx ends. When it returns, all that has stopped; what was queued
// is forgotten. The error is nil.
func (c *Cache) Run(ctx context.Context) error {
	if c.children != nil {
		defer c.children.close()
	}
	var g errgroup.Group
	for range c.o.Workers {
		g.Go(func() error { c.worker(ctx); return nil })
	}
	g.Go(func() error { c.resign(ctx); return nil })
	g.Go(func() error { c.expirer(ctx); return nil })
	if c.o.IPFS != nil {
		g.Go(func() error { c.putter(ctx); return nil })
	}
	return g.Wait()
}

// Bake queues a store item. It is no error if it is queued, under way or baked
// already. The error matches ErrBusy if the queue is full or a full disk kept
// the item from being baked: ask again later; or ErrFailed.
func (c *Cache) Bake(p storepath.Path) error {
	if wanted, err := c.enlist(p.Hash); !wanted {
		if err != nil {
			err = fmt.Errorf("%s: %w", p, err)
		}
		return err
	}
	select {
	case c.queue <- p:
		return nil
	default:
		c.dismiss(p.Hash)
		return fmt.Errorf("%s: %w: %d items wait", p, ErrBusy, cap(c.queue))
	}
}

// BakeClosure bakes what roots refer to, directly or not, and the roots, as
// far as it is not baked. Items wait until no client's item does. It returns
// when a worker of Run has taken the last one. A root that is not valid, which
// is an error, keeps no other from being baked.
func (c *Cache) BakeClosure(ctx context.Context, roots []storepath.Path) error {
	paths, invalid, err := c.closure(ctx, roots)
	if err == nil {
		_, err = c.bakeAll(ctx, paths)
	}
	return errors.Join(err, invalid)
}

// closure returns what roots refer to, directly or not, and the roots. invalid
// names roots that are not valid, which keep no other from being followed.
func (c *Cache) closure(ctx context.Context, roots []storepath.Path) (paths []storepath.Path, invalid, err error) {
	var valid []storepath.Path
	var errs []error
	for _, p := range roots {
		_, err := c.store.Info(ctx, p)
		switch {
		case err == nil:
			valid = append(valid, p)
		case !errors.Is(err, storedb.ErrNotFound):
			return nil, nil, fmt.Errorf("baking ahead: %w", err)
		case len(errs) < folder.MaxErrors:
			errs = append(errs, fmt.Errorf("baking ahead: %w", err))
		}
	}
	if paths, err = c.store.Closure(ctx, valid); err != nil {
		return nil, nil, fmt.Errorf("baking ahead: %w", err)
	}
	return paths, errors.Join(errs...), nil
}

// bakeAll bakes what of paths is not baked, like BakeClosure. It reports whether
// items were left out that could not be baked a short while ago.
func (c *Cache) bakeAll(ctx context.Context, paths []storepath.Path) (left bool, err error) {
	for _, p := range paths {
		if c.has(p.Hash) {
			continue
		}
		if wanted, err := c.enlist(p.Hash); !wanted {
			left = left || err != nil
			continue // somebody else's, or it failed
		}
		select {
		case c.roots <- p:
		case <-ctx.Done():
			c.dismiss(p.Hash)
			return left, fmt.Errorf("baking ahead: %w", ctx.Err())
		}
	}
	return left, nil
}

// enlist reports whether the item with a hash part is to be queued: not if it
// is already, nor, which is an error, if it could not be baked a short while
// ago.
func (c *Cache) enlist(hash string) (wanted bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queued[hash] {
		return false, nil
	}
	if f, ok := c.failed[hash]; ok {
		if c.o.Now().Before(f.until) {
			return false, f.err
		}
		delete(c.failed, hash)
	}
	c.queued[hash] = true
	return true, nil
}

func (c *Cache) dismiss(hash string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.queued, hash)
}

// claim makes the item with a hash part the caller's until release: nobody
// else then changes its files. If it is somebody's, the channel is closed when
// it is no more.
func (c *Cache) claim(hash string) (wait <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if other, taken := c.busy[hash]; taken {
		return other
	}
	c.busy[hash] = make(chan struct{})
	return nil
}

func (c *Cache) release(hash string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.busy[hash])
	delete(c.busy, hash)
}

// take returns the next item to bake: what a client asks for goes first.
func (c *Cache) take(ctx context.Context) (p storepath.Path, ok bool) {
	if ctx.Err() != nil {
		return p, false
	}
	select {
	case p = <-c.queue:
		return p, true
	default:
	}
	select {
	case p = <-c.queue:
		return p, true
	case p = <-c.roots:
		return p, true
	case <-ctx.Done():
		return p, false
	}
}

// syncing is how many items of a worker wait for the disk at most, beside the
// one that it compresses: what is synced together takes little more than one.
const syncing = 3

// worker bakes one item after another. It takes the next when the last is
// compressed.
func (c *Cache) worker(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(1 + syncing)
	defer g.Wait() // the error is nil
	for {
		p, ok := c.take(ctx)
		if !ok {
			return
		}
		next := make(chan struct{})
		compressed := sync.OnceFunc(func() { close(next) })
		g.Go(func() error { // waits while there are as many
			defer compressed()
			c.work(ctx, p, compressed)
			c.dismiss(p.Hash)
			return nil
		})
		<-next
	}
}

// work bakes an item, after whoever is removing what was left of it.
func (c *Cache) work(ctx context.Context, p storepath.Path, compressed func()) {
	for wait := c.claim(p.Hash); wait != nil; wait = c.claim(p.Hash) {
		if c.has(p.Hash) {
			return // it is being put into IPFS
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return
		}
	}
	defer c.kick()
	defer c.release(p.Hash)
	c.count(func(s *Status) { s.Working++ })
	defer c.count(func(s *Status) { s.Working-- })
	start := c.o.Now()
	did, err := c.bake(ctx, p, compressed)
	switch {
	case err != nil && ctx.Err() != nil:
		// It is baked another time.
	case err != nil:
		c.fail(ctx, p, err)
	case did:
		c.succeed(ctx, p, c.o.Now().Sub(start))
	}
}

func (c *Cache) count(change func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.status)
}

func (c *Cache) succeed(ctx context.Context, p storepath.Path, took time.Duration) {
	c.count(func(s *Status) { s.Baked++; s.Took += took; c.full = false })
	c.notify()
	c.log.InfoContext(ctx, "baked", slog.String("store_path", p.String()), slog.Duration("took", took))
}

// fail remembers and logs why an item could not be baked.
func (c *Cache) fail(ctx context.Context, p storepath.Path, err error) {
	now := c.o.Now()
	c.mu.Lock()
	c.status.Failed++
	f := failure{ErrBusy, now.Add(delayFor)}
	if errors.Is(err, ErrFailed) || errors.Is(err, storedb.ErrNotFound) {
		f = failure{ErrFailed, now.Add(brokenFor)}
	}
	if len(c.failed) >= maxFailures {
		clear(c.failed)
	}
	c.failed[p.Hash] = f
	quiet := false
	if isFull(err) {
		quiet, c.full = c.full, true
	}
	c.mu.Unlock()
	if !quiet {
		c.log.ErrorContext(ctx, "not baked", slog.String("store_path", p.String()), slog.Any("error", err))
	}
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// kick tells the putter that there may be something to put.
func (c *Cache) kick() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// cores counts the processors that compressors have not taken.
type cores struct {
	mu   sync.Mutex
	free int // below 0: more threads than processors
}

// take takes as many as are free, at most want and at least one. What was taken
// stays so until it is given back: a large item that began alone keeps its
// threads when others come, each of which has one.
func (c *cores) take(want int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := max(1, min(want, c.free))
	c.free -= n
	return n
}

func (c *cores) give(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free += n
}
