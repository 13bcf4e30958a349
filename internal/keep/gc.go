package keep

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"ersatz/internal/folder"
)

// staleAfter is how long GC leaves a part alone that nobody uses.
const staleAfter = 30 * 24 * time.Hour

// GCOptions are what of GC has a default.
type GCOptions struct {
	// Quota bounds what is left, in bytes. Default: nothing is removed to make
	// place.
	Quota int64
	// Progress is called after each of the items that there are. Default none.
	Progress func(done, total int)
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Freed is what GC did.
type Freed struct {
	Broken int   `json:"broken"` // faults that were repaired
	Items  int   `json:"items"`  // removed to make place
	Parts  int   `json:"parts"`  // removed to make place, or left for 30 days
	Bytes  int64 `json:"bytes"`  // by which the folder is smaller
	Left   int64 `json:"left"`   // bytes that are kept
}

// GC checks all that a state folder keeps, as Fsck does, removes what is broken
// and reports it, and then what is over the quota and parts that nobody has
// used for 30 days. The error matches ErrLocked if another process has the
// folder.
func GC(ctx context.Context, dir string, o GCOptions, report func(folder.Fault)) (f Freed, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if _, err := os.Stat(dir); err != nil {
		return f, fmt.Errorf("gc: %w", err)
	}
	lock, err := folder.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return f, fmt.Errorf("gc %s: %w", dir, err)
	}
	before := size(dir)
	err = check(ctx, dir, CheckOptions{Repair: true, Progress: o.Progress, Now: o.Now}, func(x folder.Fault) {
		if x.Repaired {
			f.Broken++
		}
		report(x)
	})
	if err != nil {
		return f, errors.Join(fmt.Errorf("gc: %w", err), lock.Close())
	}
	s, err := openLocked(dir, Options{Quota: math.MaxInt64, Now: o.Now}, lock)
	if err != nil {
		return f, fmt.Errorf("gc: %w", err)
	}
	if err := s.Settle(ctx); err != nil {
		return f, errors.Join(fmt.Errorf("gc: %w", err), s.Close())
	}
	items, parts := s.counts()
	err = s.dropStale(ctx, o.Now().Add(-staleAfter))
	if o.Quota > 0 {
		s.want, s.quota = o.Quota, o.Quota
		s.trim()
	}
	itemsLeft, partsLeft := s.counts()
	f.Items, f.Parts = items-itemsLeft, parts-partsLeft
	f.Left = s.Usage().Total()
	err = errors.Join(err, s.Close())
	f.Bytes = max(0, before-size(dir))
	return f, err
}

func (s *Store) counts() (items, parts int) {
	u := s.Usage()
	return u.Items, u.Parts
}

// size returns what the files of a folder take that this package keeps.
func size(dir string) (n int64) {
	for _, d := range dirs() {
		walk := func(d string) {
			// What cannot be read counts for nothing.
			_ = folder.List(d, func(name string) error { n += folder.Allocated(filepath.Join(d, name)); return nil })
		}
		walk(filepath.Join(dir, d))
		if d != partsDir {
			continue
		}
		_ = folder.List(filepath.Join(dir, d), func(name string) error { walk(filepath.Join(dir, d, name)); return nil })
	}
	return n
}
