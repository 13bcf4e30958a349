package bake

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ersatz/internal/block/narindex"
	"ersatz/internal/folder"
)

// Fault is something that is wrong in a cache folder.
type Fault = folder.Fault

// FsckOptions are what of Fsck has a default.
type FsckOptions struct {
	// NarPath is Layout.NarPath.
	NarPath string
	// Repair removes what is broken, so that it is baked again, and makes tree
	// files and index rows anew.
	Repair bool
	// Progress is called after each of the entries that there are. Default none.
	Progress func(done, total int)
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Fsck reads all of a cache folder and reports each fault: narinfos against
// their syntax, keys and names; nars against FileSize, NarHash and NarSize; the
// blocks that they are made into against the URN; tree files and index rows,
// in both directions; files that belong to nothing. It works beside a process
// that has the folder open. It takes faults of that process's work in progress
// for none. An error means that it could not go on.
func Fsck(ctx context.Context, dir string, keys Keys, o FsckOptions, report func(Fault)) error {
	if o.Now == nil {
		o.Now = time.Now
	}
	l := Layout{NarPath: o.NarPath}
	if err := l.validate(); err != nil {
		return fmt.Errorf("fsck: %w", err)
	}
	c := &checker{Layout: l, Check: folder.Check{Dir: dir, Repair: o.Repair, Report: report}, keys: keys, o: o}
	if err := c.run(ctx); err != nil {
		return fmt.Errorf("fsck %s: %w", dir, err)
	}
	return nil
}

type checker struct {
	Layout
	folder.Check
	keys  Keys
	o     FsckOptions
	index *narindex.Index // nil if there is none
}

func (c *checker) run(ctx context.Context) (err error) {
	total := 0
	if _, err := os.Stat(c.Dir); err != nil {
		return err
	}
	if err := narinfos(c.Dir, func(string) error { total++; return nil }); err != nil {
		return err
	}
	// Else each entry would seem broken, and be removed.
	if total > 0 && !folder.Exists(c.Path(c.narPath())) {
		return fmt.Errorf("there are narinfos and no folder %s: are nars at another path?", c.narPath())
	}
	if c.Before, err = folder.Settled(c.Path(lockFile), c.o.Now()); err != nil {
		return err
	}
	if folder.Exists(c.Path(narindex.File)) || c.Repair {
		if c.index, err = narindex.Open(c.Dir); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.index.Close()) }()
	} else if total > 0 {
		if err := c.Fault(narindex.File, "there is no index of blocks", nil); err != nil {
			return err
		}
	}
	done := 0
	err = narinfos(c.Dir, func(hash string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := c.item(ctx, hash)
		if done++; c.o.Progress != nil {
			c.o.Progress(done, max(done, total))
		}
		return err
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, c.Twice(ctx, func() error {
		return errors.Join(c.leftItems(ctx), c.ExtraRows(ctx, c.index, c.reindexHash), c.strayFiles(ctx))
	}))
}

// leftItems looks for items of the index without a narinfo. Those that are in
// IPFS stay: the server takes them out of it.
func (c *checker) leftItems(ctx context.Context) error {
	return c.LeftItems(ctx, c.index, "is indexed and has no narinfo", func(i narindex.Item) bool {
		return i.Manifest == "" && !folder.Exists(c.Path(c.Narinfo(i.Hash)))
	})
}

// strayFiles looks for files that belong to nothing.
func (c *checker) strayFiles(ctx context.Context) error {
	err := strays(c.Dir, c.Layout, c.Before, func(name, _ string) error {
		return c.Fault(name, "nar without a narinfo", c.Remove(name))
	}, func() error { return nil })
	return errors.Join(err, c.Temporary(c.dirs()), c.LeftTrees(ctx, c.index))
}
