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
	"ersatz/internal/folder"
	"ersatz/storepath"
)

// leftItems looks for items of the index without a record.
func (c *checker) leftItems(ctx context.Context) error {
	return c.LeftItems(ctx, c.index, "is indexed and not kept", func(i narindex.Item) bool {
		return !folder.Exists(c.Path(infoDir + "/" + i.Hash))
	})
}

// strays looks for files that belong to nothing.
func (c *checker) strays(ctx context.Context) error {
	errs := []error{c.Temporary(dirs()), c.LeftTrees(ctx, c.index)}
	for _, m := range methods() {
		dir := path.Join(narDir, m)
		errs = append(errs, folder.List(c.Path(dir), func(base string) error {
			name := path.Join(dir, base)
			p, err := storepath.ParseBase("/", base)
			if err != nil || c.Young(name) {
				return nil
			}
			if i, err := readItem(c.Path(infoDir + "/" + p.Hash)); err == nil && narName(i.Method, i.Path.Base()) == name {
				return nil
			}
			return c.Fault(name, "nar of no item", c.Remove(name))
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
