package keep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"ersatz/internal/block/narindex"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/storepath"
)

// leftItems looks for items of the index without a record.
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
		if c.young(path.Join(narindex.TreeDir, i.Base)) || folder.Exists(c.path(infoDir+"/"+i.Hash)) {
			continue
		}
		err = c.fault(narindex.File, i.Base+" is indexed and not kept", func() error { return c.index.Remove(ctx, i.Hash) })
		if err != nil {
			return err
		}
	}
	return nil
}

// young reports whether a file may be in the making.
func (c *checker) young(name string) bool {
	last, regular := folder.Changed(c.path(name))
	return regular && !c.o.Repair && !last.Before(c.before)
}

// extraRows looks for rows of no item, and for items with too many.
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
			err = c.fault(narindex.File, fmt.Sprintf("item %s has %d rows too many", hash, n), func() error { return c.drop(ctx, hash) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// strays looks for files that belong to nothing.
func (c *checker) strays(ctx context.Context) error {
	var errs []error
	stray := func(name, text string) error {
		if c.young(name) {
			return nil
		}
		return c.fault(name, text, func() error { return durable.Remove(c.path(name)) })
	}
	for _, dir := range dirs() {
		errs = append(errs, folder.List(c.path(dir), func(base string) error {
			name := path.Join(dir, base)
			if strings.HasPrefix(base, durable.TempPrefix) {
				return stray(name, "temporary file of a process that has ended")
			}
			p, err := storepath.ParseBase("/", base)
			switch {
			case err != nil || dir == infoDir || dir == partsDir:
				return nil
			case dir != narindex.TreeDir:
				if i, err := readItem(c.path(infoDir + "/" + p.Hash)); err != nil || narName(i.Method, i.Path.Base()) != name {
					return stray(name, "nar of no item")
				}
				return nil
			case c.index == nil:
				return nil
			}
			if _, err := c.index.Item(ctx, p.Hash); !errors.Is(err, narindex.ErrNoItem) {
				return err
			}
			return stray(name, "tree file of an item that is not indexed")
		}))
	}
	return errors.Join(errs...)
}

// parts looks for parts of nothing.
func (c *checker) parts() error {
	return folder.List(c.path(partsDir), func(name string) error {
		dir := path.Join(partsDir, name)
		fi, err := os.Stat(c.path(dir))
		if err != nil || !PartID(name).valid() || !fi.IsDir() {
			return nil
		}
		about := path.Join(dir, aboutFile)
		text, err := folder.Read(c.path(about), maxRecord)
		if err == nil {
			var a About
			if a, err = parseRecord(text); err == nil && PartID(name) != NarID(a) && PartID(name) != BlocksID(a.Item.ReadCap) {
				err = fmt.Errorf("%w: it is of another part", errRecord)
			}
		}
		if err == nil || c.young(about) || c.young(path.Join(dir, contentFile)) || !fi.ModTime().Before(c.before) && !c.o.Repair {
			return nil
		}
		return c.fault(about, strings.ReplaceAll(err.Error(), c.dir+string(filepath.Separator), ""), func() error { return removePart(c.path(dir)) })
	})
}
