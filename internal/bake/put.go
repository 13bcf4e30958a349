package bake

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"log/slog"
	"time"

	"ersatz/eris"
	"ersatz/internal/block/narindex"
)

// How long the putter waits after the daemon failed: it doubles from the one to
// the other.
const (
	firstPutDelay = 10 * time.Second
	lastPutDelay  = 10 * time.Minute
)

// putter puts the blocks of baked items into IPFS, one item at a time, until
// ctx ends. What was not put then is put by the next process.
func (c *Cache) putter(ctx context.Context) {
	broken := map[string]bool{} // hash parts of items that are for fsck
	cleared := time.Now()
	delay := firstPutDelay
	after := "" // the item that the daemon failed at, so that it keeps no other back
	for {
		if time.Since(cleared) >= expireEvery { // it may be mended
			clear(broken)
			cleared = time.Now()
		}
		failed, err := c.putPass(ctx, after, broken)
		if ctx.Err() != nil {
			return
		}
		if err == nil && after != "" {
			after = ""
			continue
		}
		after = failed
		var again <-chan time.Time
		wake := c.wake
		if err == nil {
			delay = firstPutDelay
		} else {
			c.log.WarnContext(ctx, "IPFS daemon failed", slog.Any("error", err), slog.Duration("again_in", delay))
			again = time.After(delay)
			wake = nil
			delay = min(2*delay, lastPutDelay)
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-again:
		}
	}
}

// putPass puts the items after the one with a hash part that are not there
// yet. It returns the first error of the daemon, and at which item it was.
func (c *Cache) putPass(ctx context.Context, after string, broken map[string]bool) (failed string, err error) {
	for {
		i, err := c.index.Next(ctx, after, true)
		if errors.Is(err, narindex.ErrNoItem) {
			return "", nil
		}
		if err != nil {
			return after, err
		}
		after = i.Hash
		// A claimed item is being baked or removed: there is another pass
		// after that.
		if broken[i.Hash] || !c.has(i.Hash) || c.claim(i.Hash) != nil {
			continue
		}
		err = c.put(ctx, i)
		c.release(i.Hash)
		switch {
		case err == nil:
		case errors.Is(err, eris.ErrCorrupt), errors.Is(err, fs.ErrNotExist), errors.Is(err, narindex.ErrNoItem):
			broken[i.Hash] = true
			c.log.ErrorContext(ctx, "not put into IPFS: run fsck", slog.String("item", i.Base), slog.Any("error", err))
		default:
			return i.Hash, err
		}
	}
}

func (c *Cache) put(ctx context.Context, i narindex.Item) (err error) {
	content, err := c.index.Open(ctx, i.Hash)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	manifest, err := c.o.IPFS.Put(ctx, content.ReadCap().Root, content.Refs(), func(emit func(eris.Ref, []byte) error) error {
		return content.Blocks(ctx, emit)
	})
	if err != nil {
		return err
	}
	if err := content.Err(); err != nil {
		return err
	}
	if err := c.index.SetManifest(ctx, i.Hash, manifest); err != nil {
		if errors.Is(err, narindex.ErrNoItem) { // fsck has removed it meanwhile
			err = errors.Join(err, c.o.IPFS.Remove(ctx, manifest, content.Refs()))
		}
		return err
	}
	c.count(func(s *Status) { s.Put++ })
	c.log.InfoContext(ctx, "put into IPFS", slog.String("item", i.Base), slog.String("manifest", manifest))
	return nil
}

// unput takes an item's pin and blocks out of IPFS. Without a daemon, or
// without the tree file, that cannot be done in full; the log says so.
func (c *Cache) unput(ctx context.Context, i narindex.Item) (err error) {
	if i.Manifest == "" {
		return nil
	}
	if c.o.IPFS == nil {
		c.log.WarnContext(ctx, "blocks stay in IPFS: no daemon is set", slog.String("item", i.Base), slog.String("manifest", i.Manifest))
		return nil
	}
	refs := iter.Seq[eris.Ref](func(func(eris.Ref) bool) {})
	content, err := c.index.Open(ctx, i.Hash)
	switch {
	case err == nil:
		defer func() { err = errors.Join(err, content.Close()) }()
		refs = content.Refs()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, eris.ErrCorrupt):
		c.log.WarnContext(ctx, "blocks stay in IPFS without a pin", slog.String("item", i.Base), slog.Any("error", err))
	default:
		return err
	}
	if err := c.o.IPFS.Remove(ctx, i.Manifest, refs); err != nil {
		return err
	}
	return c.index.SetManifest(ctx, i.Hash, "")
}
