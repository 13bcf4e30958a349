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
		if c.Young(path.Join(narindex.TreeDir, i.Base)) || folder.Exists(c.Path(infoDir+"/"+i.Hash)) {
			continue
		}
		err = c.Fault(narindex.File, i.Base+" is indexed and not kept", func() error { return c.index.Remove(ctx, i.Hash) })
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
		if c.Young(name) {
			return nil
		}
		return c.Fault(name, text, func() error { return durable.Remove(c.Path(name)) })
	}
	for _, dir := range dirs() {
		errs = append(errs, folder.List(c.Path(dir), func(base string) error {
			name := path.Join(dir, base)
			if strings.HasPrefix(base, durable.TempPrefix) {
				return stray(name, "temporary file of a process that has ended")
			}
			p, err := storepath.ParseBase("/", base)
			switch {
			case err != nil || dir == infoDir || dir == partsDir:
				return nil
			case dir != narindex.TreeDir:
				if i, err := readItem(c.Path(infoDir + "/" + p.Hash)); err != nil || narName(i.Method, i.Path.Base()) != name {
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
	return folder.List(c.Path(partsDir), func(name string) error {
		dir := path.Join(partsDir, name)
		fi, err := os.Stat(c.Path(dir))
		if err != nil || !PartID(name).valid() || !fi.IsDir() {
			return nil
		}
		about := path.Join(dir, aboutFile)
		text, err := folder.Read(c.Path(about), maxRecord)
		if err == nil {
			var a About
			if a, err = parseRecord(text); err == nil && PartID(name) != NarID(a) && PartID(name) != BlocksID(a.Item.ReadCap) {
				err = fmt.Errorf("%w: it is of another part", errRecord)
			}
		}
		if err == nil || c.Young(about) || c.Young(path.Join(dir, contentFile)) || !fi.ModTime().Before(c.Before) && !c.Repair {
			return nil
		}
		return c.Fault(about, strings.ReplaceAll(err.Error(), c.Dir+string(filepath.Separator), ""), func() error { return removePart(c.Path(dir)) })
	})
}
