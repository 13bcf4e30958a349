package bake

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ersatz/internal/block/narindex"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/storepath"
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
	c := &checker{Layout: l, dir: dir, keys: keys, o: o, report: report}
	if err := c.run(ctx); err != nil {
		return fmt.Errorf("fsck %s: %w", dir, err)
	}
	return nil
}

type checker struct {
	Layout
	dir    string
	keys   Keys
	o      FsckOptions
	report func(Fault)
	index  *narindex.Index // nil if there is none
	before time.Time       // files that changed later are in the making
}

func (c *checker) path(name string) string { return filepath.Join(c.dir, filepath.FromSlash(name)) }

// fault reports a fault, after repair if that is wanted and not nil.
func (c *checker) fault(file, text string, repair func() error) error {
	f := Fault{File: file, Text: text}
	if c.o.Repair && repair != nil {
		if err := repair(); err != nil {
			c.report(f)
			return fmt.Errorf("repairing %s: %w", file, err)
		}
		f.Repaired = true
	}
	c.report(f)
	return nil
}

func (c *checker) run(ctx context.Context) (err error) {
	total := 0
	if _, err := os.Stat(c.dir); err != nil {
		return err
	}
	if err := narinfos(c.dir, func(string) error { total++; return nil }); err != nil {
		return err
	}
	// Else each entry would seem broken, and be removed.
	if total > 0 && !folder.Exists(c.path(c.narPath())) {
		return fmt.Errorf("there are narinfos and no folder %s: are nars at another path?", c.narPath())
	}
	if c.before, err = folder.Settled(c.path(lockFile), c.o.Now()); err != nil {
		return err
	}
	if folder.Exists(c.path(narindex.File)) || c.o.Repair {
		made := !folder.Exists(c.path(narindex.File))
		if c.index, err = narindex.Open(c.dir); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.index.Close()) }()
		if made {
			if err := c.giveIndex(); err != nil {
				return err
			}
		}
	} else if total > 0 {
		if err := c.fault(narindex.File, "there is no index of blocks", nil); err != nil {
			return err
		}
	}
	done := 0
	err = narinfos(c.dir, func(hash string) error {
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
	return errors.Join(err, c.leftItems(ctx), c.extraRows(ctx), c.strayFiles(ctx))
}

// giveIndex gives an index that was made just now to the owner of the folder,
// which is whom publish runs as; fsck may be run by root.
func (c *checker) giveIndex() error {
	var st unix.Stat_t
	if err := unix.Stat(c.dir, &st); err != nil || os.Geteuid() != 0 {
		return err
	}
	for _, name := range []string{narindex.Dir, narindex.TreeDir, narindex.File, narindex.File + "-wal", narindex.File + "-shm"} {
		if err := os.Lchown(c.path(name), int(st.Uid), int(st.Gid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// leftItems looks for items of the index without a narinfo. Those that are in
// IPFS stay: the server takes them out of it.
func (c *checker) leftItems(ctx context.Context) error {
	for after := ""; c.index != nil; {
		i, err := c.index.Next(ctx, after, false)
		if errors.Is(err, narindex.ErrNoItem) {
			return nil
		}
		if err != nil {
			return err
		}
		after = i.Hash
		tree := path.Join(narindex.TreeDir, i.Base)
		if c.young(tree) || folder.Exists(c.path(c.Narinfo(i.Hash))) || i.Manifest != "" {
			continue
		}
		err = c.fault(narindex.File, i.Base+" is indexed and has no narinfo", func() error {
			return c.index.Remove(ctx, i.Hash)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// young reports whether a file may be in the making.
func (c *checker) young(name string) bool {
	last, regular := folder.Changed(c.path(name))
	return regular && !last.Before(c.before)
}

func (c *checker) extraRows(ctx context.Context) error {
	if c.index == nil {
		return nil
	}
	extra := map[string]int64{}
	err := c.index.ExtraRows(ctx, func(hash string, rows int64) error {
		extra[hash] = rows
		return nil
	})
	if err != nil {
		return err
	}
	for hash, n := range extra {
		switch {
		case hash == "":
			err = c.fault(narindex.File, fmt.Sprintf("%d rows belong to no item", n), func() error { return c.index.DropOrphans(ctx) })
		case n > 0:
			err = c.fault(narindex.File, fmt.Sprintf("item %s has %d rows too many", hash, n), func() error { return c.reindexHash(ctx, hash) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// strayFiles looks for files that belong to nothing.
func (c *checker) strayFiles(ctx context.Context) error {
	remove := func(name string) func() error {
		return func() error { return durable.Remove(c.path(name)) }
	}
	errs := []error{strays(c.dir, c.Layout, c.before, func(name, _ string) error {
		return c.fault(name, "nar without a narinfo", remove(name))
	})}
	for _, dir := range c.dirs() {
		errs = append(errs, folder.List(c.path(dir), func(base string) error {
			name := path.Join(dir, base)
			if !strings.HasPrefix(base, durable.TempPrefix) || c.young(name) {
				return nil
			}
			return c.fault(name, "temporary file of a process that has ended", remove(name))
		}))
	}
	errs = append(errs, folder.List(c.path(narindex.TreeDir), func(base string) error {
		name := path.Join(narindex.TreeDir, base)
		p, err := storepath.ParseBase("/", base)
		if err != nil || c.index == nil || c.young(name) {
			return nil
		}
		_, err = c.index.Item(ctx, p.Hash)
		if !errors.Is(err, narindex.ErrNoItem) {
			return err
		}
		return c.fault(name, "tree file of an item that is not indexed", remove(name))
	}))
	return errors.Join(errs...)
}
