package folder

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"ersatz/internal/block/narindex"
)

// Check is what the checks of folders have in common. It is used by one
// goroutine.
type Check struct {
	Dir    string
	Repair bool // what is wrong is mended
	Report func(Fault)
	Alone  bool      // no other process has the folder: no file is in the making
	Before time.Time // else, files that changed later may be
}

// Path returns where a file of the folder is.
func (c *Check) Path(name string) string { return filepath.Join(c.Dir, filepath.FromSlash(name)) }

// Fault reports a fault, after mend if that is wanted and not nil. The error is
// that of mend.
func (c *Check) Fault(file, text string, mend func() error) error {
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
