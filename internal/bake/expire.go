package bake

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"path/filepath"
	"strings"
	"time"

	"ersatz/internal/block/narindex"
	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/internal/storedb"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// expireEvery is the time between two searches for what has expired.
const expireEvery = time.Hour

// strayAge is how long a nar without a narinfo is left alone.
const strayAge = 24 * time.Hour

// expireFirst is when Run looks for the first time: not while clients wait for a
// server that has just been started.
const expireFirst = time.Minute

// sweepPart is the part of the time that may be spent on searching the folder,
// which takes longer the more there is in it.
const sweepPart = 10

// expirer removes what other processes have left, and then what has expired.
func (c *Cache) expirer(ctx context.Context) {
	pace := folder.NewPace(sweepPart)
	if err := c.sweepTemp(ctx, pace); err != nil && ctx.Err() == nil {
		c.log.ErrorContext(ctx, "removing temporary files", slog.Any("error", err))
	}
	for wait := expireFirst; ; wait = expireEvery {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := c.expire(ctx, folder.NewPace(sweepPart)); err != nil && ctx.Err() == nil {
			c.log.ErrorContext(ctx, "expiry", slog.Any("error", err))
		}
	}
}

// sweepTemp removes the temporary files that killed processes have left.
func (c *Cache) sweepTemp(ctx context.Context, pace *folder.Pace) error {
	left := func(last time.Time) bool { return folder.Left(c.begun, last) }
	var errs []error
	for _, d := range c.dirs() {
		errs = append(errs, durable.SweepTempIf(c.path(d), left, func() error { return pace.Rest(ctx) }))
	}
	return errors.Join(errs...)
}

// expire removes the entries that nobody has asked for during the TTL and
// whose item the store no longer has, what a crash has left of others, and
// nars that have had no narinfo for a day. It goes on after an error and returns
// the first few. A nil pace does not rest.
func (c *Cache) expire(ctx context.Context, pace *folder.Pace) error {
	errs := []error{
		narinfos(c.dir, func(hash string) error { return errors.Join(c.expireOld(ctx, hash), pace.Rest(ctx)) }),
		c.expireLeft(ctx, pace),
		strays(c.dir, c.Layout, c.o.Now().Add(-strayAge), func(name, hash string) error {
			return c.claimed(hash, func() error {
				if c.has(hash) {
					return nil // baked meanwhile
				}
				c.log.InfoContext(ctx, "nar without narinfo removed", slog.String("file", name))
				return durable.Remove(c.path(name))
			})
		}, func() error { return pace.Rest(ctx) }),
	}
	c.kick()
	return errors.Join(errs...)
}

// narinfos is list for the hash parts of the narinfos in the folder dir.
func narinfos(dir string, visit func(hash string) error) error {
	return folder.List(dir, func(name string) error {
		hash, ok := strings.CutSuffix(name, suffix)
		if !ok || !storepath.ValidHash(hash) {
			return nil
		}
		return visit(hash)
	})
}

// claimed runs fn unless somebody is at work on the item.
func (c *Cache) claimed(hash string, fn func() error) error {
	if c.claim(hash) != nil {
		return nil
	}
	defer c.release(hash)
	return fn()
}

func (c *Cache) expireOld(ctx context.Context, hash string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	last, err := folder.AccessTime(c.path(c.Narinfo(hash)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || c.o.Now().Sub(last) <= c.o.TTL {
		return err
	}
	_, err = c.store.ByHash(ctx, hash)
	if !errors.Is(err, storedb.ErrNotFound) {
		return err // the store has it, or cannot be asked
	}
	return c.claimed(hash, func() error {
		// The store took its time: somebody may have asked meanwhile.
		if now, err := folder.AccessTime(c.path(c.Narinfo(hash))); err != nil || now.After(last) {
			return err
		}
		base, err := c.base(ctx, hash)
		if err != nil {
			return err
		}
		if err := c.remove(ctx, hash, base); err != nil {
			return fmt.Errorf("removing %s: %w", base, err)
		}
		c.count(func(s *Status) { s.Expired++ })
		c.log.InfoContext(ctx, "expired", slog.String("item", base), slog.Time("asked_for", last))
		return nil
	})
}

// base returns the last component of an entry's store path.
func (c *Cache) base(ctx context.Context, hash string) (string, error) {
	i, err := c.index.Item(ctx, hash)
	if err == nil || !errors.Is(err, narindex.ErrNoItem) {
		return i.Base, err
	}
	name := c.path(c.Narinfo(hash))
	text, err := folder.Read(name, narinfo.MaxSize)
	if err != nil {
		return "", err
	}
	n, err := narinfo.Parse(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return path.Base(n.StorePath), nil
}

// expireLeft removes what the index has of items without a narinfo: of those
// whose baking or removal was cut short, or whose IPFS daemon failed.
func (c *Cache) expireLeft(ctx context.Context, pace *folder.Pace) error {
	var errs []error
	for i, err := range c.index.Items(ctx) {
		if err == nil {
			err = pace.Rest(ctx)
		}
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		if c.has(i.Hash) {
			continue
		}
		err = c.claimed(i.Hash, func() error {
			if c.has(i.Hash) {
				return nil // baked meanwhile
			}
			return c.remove(ctx, i.Hash, i.Base)
		})
		if err != nil && len(errs) < folder.MaxErrors {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// remove removes an entry in the order that leaves nothing that looks whole.
func (c *Cache) remove(ctx context.Context, hash, base string) error {
	defer c.notify()
	names := []string{c.Narinfo(hash)}
	for _, m := range methodNames() {
		names = append(names, c.Nar(compress.Method{Name: m}, base))
	}
	for _, name := range names {
		if !folder.Exists(c.path(name)) {
			continue
		}
		if err := durable.Remove(c.path(name)); err != nil {
			return err
		}
	}
	i, err := c.index.Item(ctx, hash)
	if errors.Is(err, narindex.ErrNoItem) {
		return nil
	}
	if err == nil {
		err = c.unput(ctx, i)
	}
	if err != nil {
		return err
	}
	return c.index.Remove(ctx, hash)
}

// strays calls visit for each nar that has no narinfo and that was last written
// or linked before the given time, with its name relative to dir. rest comes before
// each, and its error instead of a look at the disk.
func strays(dir string, l Layout, before time.Time, visit func(name, hash string) error, rest func() error) error {
	var errs []error
	for _, method := range methodNames() {
		sub := l.narDir(method)
		errs = append(errs, folder.List(filepath.Join(dir, sub), func(base string) error {
			if err := rest(); err != nil {
				return err
			}
			p, err := storepath.ParseBase("/", base)
			if err != nil || folder.Exists(filepath.Join(dir, l.Narinfo(p.Hash))) {
				return nil
			}
			name := path.Join(sub, base)
			last, regular := folder.Changed(filepath.Join(dir, name))
			if !regular || !last.Before(before) {
				return nil
			}
			return visit(name, p.Hash)
		}))
	}
	return errors.Join(errs...)
}
