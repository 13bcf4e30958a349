package folder

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"time"

	"ersatz/internal/block/narindex"
	"ersatz/internal/durable"
	"ersatz/storepath"
)

// Check is what the checks of folders have in common. It is used by one
// goroutine.
type Check struct {
	Dir    string
	Repair bool // what is wrong is mended
	Report func(Fault)
	Alone  bool      // no other process has the folder: no file is in the making
	Before time.Time // else, files that changed later may be

	looking  bool // faults are suspected, not reported
	suspects map[[2]string]bool
}

// twicePause is longer than the files of one item take to go.
const twicePause = 300 * time.Millisecond

// Twice runs a pass over what belongs to nothing. Beside a process that removes
// an item just now, a fault counts only if a second pass finds it too.
func (c *Check) Twice(ctx context.Context, pass func() error) error {
	if c.Alone {
		return pass()
	}
	c.looking, c.suspects = true, map[[2]string]bool{}
	err := pass()
	c.looking = false
	defer func() { c.suspects = nil }()
	if err != nil || len(c.suspects) == 0 {
		return err
	}
	pause := time.NewTimer(twicePause)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return pass()
}

// Path returns where a file of the folder is.
func (c *Check) Path(name string) string { return filepath.Join(c.Dir, filepath.FromSlash(name)) }

// Fault reports a fault, after mend if that is wanted and not nil. The error is
// that of mend.
func (c *Check) Fault(file, text string, mend func() error) error {
	if c.looking {
		c.suspects[[2]string{file, text}] = true
		return nil
	}
	if c.suspects != nil && !c.suspects[[2]string{file, text}] {
		return nil
	}
	f := Fault{File: file, Text: text}
	if c.Repair && mend != nil {
		if err := mend(); err != nil {
			c.Report(f)
			return fmt.Errorf("repairing %s: %w", file, err)
		}
		f.Repaired = true
	}
	c.Report(f)
	return nil
}

// Young reports whether a file may be in the making.
func (c *Check) Young(name string) bool {
	last, regular := Changed(c.Path(name))
	return regular && !c.Alone && !last.Before(c.Before)
}

// Remove returns a way to mend that a file is there.
func (c *Check) Remove(name string) func() error {
	return func() error { return durable.Remove(c.Path(name)) }
}

// Temporary looks for temporary files that killed processes have left in
// folders of the folder.
func (c *Check) Temporary(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, List(c.Path(dir), func(base string) error {
			name := path.Join(dir, base)
			if !strings.HasPrefix(base, durable.TempPrefix) || c.Young(name) {
				return nil
			}
			return c.Fault(name, "temporary file of a process that has ended", c.Remove(name))
		}))
	}
	return errors.Join(errs...)
}

// LeftItems looks for items of an index, which may be nil, that left reports to
// be nothing but that. text says of one what is wrong with it.
func (c *Check) LeftItems(ctx context.Context, index *narindex.Index, text string, left func(narindex.Item) bool) error {
	for after := ""; index != nil; {
		i, err := index.Next(ctx, after, false)
		if errors.Is(err, narindex.ErrNoItem) {
			return nil
		}
		if err != nil {
			return err
		}
		after = i.Hash
		if c.Young(path.Join(narindex.TreeDir, i.Base)) || !left(i) {
			continue
		}
		err = c.Fault(narindex.File, i.Base+" "+text, func() error { return index.Remove(ctx, i.Hash) })
		if err != nil {
			return err
		}
	}
	return nil
}

// LeftTrees looks for tree files and torrents of items that an index, which may
// be nil, does not have.
func (c *Check) LeftTrees(ctx context.Context, index *narindex.Index) error {
	left := func(dir, text string) error {
		return List(c.Path(dir), func(base string) error {
			name := path.Join(dir, base)
			p, err := storepath.ParseBase("/", base)
			if err != nil || index == nil || c.Young(name) {
				return nil
			}
			if _, err = index.Item(ctx, p.Hash); !errors.Is(err, narindex.ErrNoItem) {
				return err
			}
			return c.Fault(name, text, c.Remove(name))
		})
	}
	return errors.Join(left(narindex.TreeDir, "tree file of an item that is not indexed"),
		left(narindex.TorrentDir, "torrent of an item that is not indexed"))
}

// ExtraRows looks for rows of no item in an index, which may be nil, and for
// items with too many, which mend mends.
func (c *Check) ExtraRows(ctx context.Context, index *narindex.Index, mend func(ctx context.Context, hash string) error) error {
	if index == nil {
		return nil
	}
	extra := map[string]int64{}
	err := index.ExtraRows(ctx, func(hash string, rows int64) error {
		extra[hash] = rows
		return nil
	})
	if err != nil {
		return err
	}
	for hash, n := range extra {
		switch {
		case hash == "":
			err = c.Fault(narindex.File, fmt.Sprintf("%d rows belong to no item", n), func() error { return index.DropOrphans(ctx) })
		case n > 0:
			err = c.Fault(narindex.File, fmt.Sprintf("item %s has %d rows too many", hash, n), func() error { return mend(ctx, hash) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}
