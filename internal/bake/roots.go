package bake

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"ersatz/internal/storedb"
	"ersatz/storepath"
)

// maxRoots bounds the lines of a file of roots.
const maxRoots = 1_000_000

// rootsEvery is how often BakeAhead looks whether names stand for other items,
// as a profile does after each update.
const rootsEvery = 10 * time.Minute

// BakeAhead bakes the closures of what names stand for (see RootsOf), and again
// when they stand for something else or an item could not be baked, until ctx
// ends. Run is under way meanwhile. What goes wrong is logged and tried again.
// These closures are what RootsLibrary has.
func (c *Cache) BakeAhead(ctx context.Context, names []string) {
	tick := time.NewTicker(rootsEvery)
	defer tick.Stop()
	var done []storepath.Path
	known, left, failed := false, false, 0
	for {
		roots, err := c.allRoots(names)
		now := c.Status().Failed
		if err == nil && (!known || left || failed != now || !slices.Equal(roots, done)) {
			if left, err = c.bakeRoots(ctx, roots); err == nil {
				known, done, failed = true, roots, now
			}
		}
		if err != nil && ctx.Err() == nil {
			c.log.ErrorContext(ctx, "baking ahead", slog.Any("error", err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// bakeRoots bakes what roots refer to, for as long as roots are not looked at
// again. It reports whether there is more to bake.
func (c *Cache) bakeRoots(ctx context.Context, roots []storepath.Path) (left bool, err error) {
	paths, invalid, err := c.closure(ctx, roots)
	if err != nil {
		return false, err
	}
	c.setAhead(paths)
	// The names are looked at again in time, however long it takes to bake.
	while, cancel := context.WithTimeout(ctx, rootsEvery)
	defer cancel()
	left, err = c.bakeAll(while, paths)
	if while.Err() != nil && ctx.Err() == nil {
		left, err = true, nil
	}
	return left, errors.Join(err, invalid)
}

func (c *Cache) allRoots(names []string) (roots []storepath.Path, err error) {
	for _, name := range names {
		more, err := RootsOf(c.store, name)
		if err != nil {
			return nil, err
		}
		roots = append(roots, more...)
	}
	return roots, nil
}

// RootsOf returns the store items that name stands for: the one that a profile
// or another link, or a path in the store, leads to; or those that a file
// lists, one path a line, with empty lines and "#" comments. Whether they are
// valid is not checked.
func RootsOf(db *storedb.DB, name string) ([]storepath.Path, error) {
	real, err := follow(db.StoreDir(), name)
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	if p, ok := within(db.StoreDir(), real); ok {
		return []storepath.Path{p}, nil
	}
	fi, err := os.Stat(real)
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("roots: %s leads neither into %s nor to a file that lists paths", name, db.StoreDir())
	}
	return readRoots(db.StoreDir(), real)
}

// follow returns the absolute path that name leads to, as far as the first store
// item: that can be a link itself, to another item or out of the store.
func follow(storeDir, name string) (string, error) {
	const maxLinks = 40 // as Linux
	name, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	for range maxLinks {
		dir, err := filepath.EvalSymlinks(filepath.Dir(name))
		if err != nil {
			return "", err
		}
		name = filepath.Join(dir, filepath.Base(name))
		fi, err := os.Lstat(name)
		if err != nil || fi.Mode().Type() != fs.ModeSymlink || dir == storeDir || dir == resolved(storeDir) {
			return name, err
		}
		target, err := os.Readlink(name)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		name = target
	}
	return "", &fs.PathError{Op: "readlink", Path: name, Err: syscall.ELOOP}
}

// within returns the item of the store dir that a path lies in.
func within(dir, name string) (storepath.Path, bool) {
	// The store's folder may be a link itself.
	for _, d := range []string{dir, resolved(dir)} {
		rest, ok := strings.CutPrefix(name, d+"/")
		if !ok {
			continue
		}
		base, _, _ := strings.Cut(rest, "/")
		p, err := storepath.ParseBase(dir, base)
		return p, err == nil
	}
	return storepath.Path{}, false
}

func resolved(dir string) string {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return dir
	}
	return real
}

func readRoots(dir, name string) ([]storepath.Path, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	defer f.Close()
	var roots []storepath.Path
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		p, ok := within(dir, text)
		if !ok {
			return nil, fmt.Errorf("roots: %s: line %d: %q is not in %s", name, n, text, dir)
		}
		if len(roots) == maxRoots {
			return nil, fmt.Errorf("roots: %s: more than %d paths", name, maxRoots)
		}
		roots = append(roots, p)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("roots: %s: %w", name, err)
	}
	return roots, nil
}
