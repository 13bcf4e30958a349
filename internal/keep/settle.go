package keep

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"strings"
	"time"

	"ersatz/internal/block/narindex"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/storepath"
)

// settlePart is the part of the time that Run spends on settling.
const settlePart = 4

// Run settles the store while it is in use, slowly. It returns when that is
// done, or when ctx ends. What goes wrong is logged.
func (s *Store) Run(ctx context.Context) error {
	if err := s.settle(ctx, folder.NewPace(settlePart)); err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "looking through what is kept", slog.Any("error", err))
	}
	return nil
}

// Settle removes what a crash has left of items that are not whole, and puts into
// the catalog what it lacks of those that are. All else works meanwhile, and
// before: an item is found by its record. Nobody but Settle finds, by its nar,
// one that the catalog lacks, and nobody else counts and evicts it. It goes on
// after an error and returns the first few.
func (s *Store) Settle(ctx context.Context) error { return s.settle(ctx, nil) }

func (s *Store) settle(ctx context.Context, pace *folder.Pace) error {
	t := settling{s: s, pace: pace}
	errs := []error{t.temporary(ctx), t.items(ctx), t.flush(ctx)}
	if errors.Join(errs...) == nil { // else not all is known of what there is
		errs = append(errs, t.records(ctx), t.flush(ctx), t.nars(ctx), t.trees(ctx))
	}
	s.trim()
	s.thin(ctx)
	return errors.Join(errs...)
}

// settling is a pass over all that is kept.
type settling struct {
	s    *Store
	pace *folder.Pace
	page []card // of the catalog, what was not passed yet
	last bool   // there are no more
	past string // where the page began

	have map[string]bool // hash parts that flush is to put into the catalog

	found, foundNars, foundTrees int
}

// temporary removes the temporary files that killed processes have left. Those of
// parts were removed before somebody could have one.
func (t *settling) temporary(ctx context.Context) error {
	left := func(last time.Time) bool { return folder.Left(t.s.begun, last) }
	var errs []error
	for _, d := range dirs() {
		errs = append(errs, durable.SweepTempIf(t.s.path(d), left, func() error { return t.pace.Rest(ctx) }))
	}
	return errors.Join(errs...)
}

// items compares what the index has with records, nars and the catalog. The index
// has all items: rows are made before a record, and go after it.
func (t *settling) items(ctx context.Context) error {
	var errs []error
	for i, err := range t.s.index.Items(ctx) {
		if err == nil {
			err = t.pace.Rest(ctx)
		}
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := t.item(ctx, i); err != nil && len(errs) < folder.MaxErrors {
			errs = append(errs, err)
		}
	}
	_, _, err := t.card(ctx, "~") // those after the last
	return errors.Join(append(errs, err)...)
}

func (t *settling) item(ctx context.Context, i narindex.Item) error {
	c, ok, err := t.card(ctx, i.Hash)
	if err != nil {
		return err
	}
	s := t.s
	name := s.record(i.Hash)
	record, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return s.removeLeft(ctx, i.Hash)
	}
	if err != nil {
		return err
	}
	t.found++
	nar, err := os.Lstat(s.path(i.Nar))
	if err == nil {
		t.foundNars++
	}
	if folder.Exists(s.path(path.Join(narindex.TreeDir, i.Base))) {
		t.foundTrees++
	}
	if !ok || err != nil || nar.Size() != c.length || record.ModTime().UnixNano() != c.came {
		return t.load(ctx, i.Hash)
	}
	asked, err := folder.AccessTime(name)
	if err == nil && asked.Unix() > 0 && asked.UnixNano() > c.used {
		return s.cards.note(ctx, map[string]int64{i.Hash: asked.UnixNano()})
	}
	return nil
}

// card returns the row of an item, if there is one. Hash parts are asked for in
// their order. Rows that nobody asks for and that have no record go.
func (t *settling) card(ctx context.Context, hash string) (c card, ok bool, err error) {
	for {
		if len(t.page) == 0 {
			if t.last {
				return c, false, nil
			}
			if t.page, err = t.s.cards.page(ctx, t.past); err != nil {
				return c, false, err
			}
			if t.last = len(t.page) < pageCards; len(t.page) == 0 {
				return c, false, nil
			}
			t.past = t.page[len(t.page)-1].hash
		}
		switch c = t.page[0]; {
		case c.hash > hash:
			return c, false, nil
		case c.hash == hash:
			t.page = t.page[1:]
			return c, true, nil
		}
		t.page = t.page[1:]
		if !folder.Exists(t.s.record(c.hash)) {
			if err := t.s.removeLeft(ctx, c.hash); err != nil {
				return c, false, err
			}
		}
	}
}

// load has an item put into the catalog, with others. One that is not whole is
// removed.
func (t *settling) load(ctx context.Context, hash string) error {
	if t.have == nil {
		t.have = map[string]bool{}
	}
	t.have[hash] = true
	if len(t.have) < pageCards {
		return nil
	}
	return t.flush(ctx)
}

func (t *settling) flush(ctx context.Context) error {
	if len(t.have) == 0 {
		return nil
	}
	s := t.s
	var gone []string
	var cards []card
	err := func() error {
		s.change.Lock()
		defer s.change.Unlock()
		for hash := range t.have {
			e, i, err := s.entry(hash)
			switch {
			case broken(err):
				gone = append(gone, hash)
			case errors.Is(err, ErrNone):
			case err != nil:
				return err
			default:
				cards = append(cards, e.card(i.Size, s.allocated(e)))
			}
		}
		return errors.Join(s.cards.put(ctx, cards...), s.count())
	}()
	clear(t.have)
	if err != nil {
		return err
	}
	for _, hash := range gone {
		t.foundNars, t.foundTrees = 0, 0 // they are of less than was thought
		if err := s.removeBroken(ctx, hash); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.indexBytes = s.indexSize()
	s.notifyLocked()
	s.mu.Unlock()
	s.trim()
	return t.pace.Rest(ctx)
}

// records looks for records of items that the index lacks, as when it was lost,
// if there are more than it has.
func (t *settling) records(ctx context.Context) error {
	each := func(visit func(hash string) error) error {
		return folder.List(t.s.path(infoDir), func(name string) error {
			if !storepath.ValidHash(name) {
				return nil
			}
			if err := t.pace.Rest(ctx); err != nil {
				return err
			}
			return visit(name)
		})
	}
	n := 0
	if err := each(func(string) error { n++; return nil }); err != nil || n <= t.found {
		return err
	}
	return each(func(hash string) error {
		if _, ok, err := t.s.cards.card(ctx, hash); err != nil || ok {
			return err
		}
		return t.load(ctx, hash)
	})
}

// nars removes the nars that belong to no item, if there are more than items.
func (t *settling) nars(ctx context.Context) error {
	var dirs []string
	for _, m := range methods() {
		dirs = append(dirs, path.Join(narDir, m))
	}
	return t.strays(ctx, t.foundNars, dirs, func(dir string, e *entry) bool {
		return narName(e.method, e.path.Base()) == path.Join(dir, e.path.Base())
	})
}

// trees removes the trees and torrents that belong to no item.
func (t *settling) trees(ctx context.Context) error {
	of := func(string, *entry) bool { return true }
	return errors.Join(t.strays(ctx, t.foundTrees, []string{narindex.TreeDir}, of), t.strays(ctx, 0, []string{narindex.TorrentDir}, of))
}

// strays removes the files of folders whose names are those of no item, if there
// are more than a number. of says whether a file in a folder is the one of an
// item.
func (t *settling) strays(ctx context.Context, known int, dirs []string, of func(dir string, e *entry) bool) error {
	each := func(visit func(dir, base string) error) error {
		var errs []error
		for _, dir := range dirs {
			errs = append(errs, folder.List(t.s.path(dir), func(base string) error {
				if err := t.pace.Rest(ctx); err != nil {
					return err
				}
				return visit(dir, base)
			}))
		}
		return errors.Join(errs...)
	}
	n := 0
	if err := each(func(string, string) error { n++; return nil }); err != nil || n <= known {
		return err
	}
	return each(func(dir, base string) error { return t.stray(ctx, dir, base, of) })
}

func (t *settling) stray(ctx context.Context, dir, base string, of func(dir string, e *entry) bool) error {
	s := t.s
	// kept is asked again when nobody makes or removes an item.
	kept := func() (bool, error) {
		p, err := storepath.ParseBase("/", base)
		if err != nil {
			return false, nil
		}
		e, _, err := s.entry(p.Hash)
		switch {
		case errors.Is(err, ErrNone), broken(err):
			return false, nil
		case err != nil:
			return true, err
		}
		return e.path.Base() == base && of(dir, e), nil
	}
	name := s.path(path.Join(dir, base))
	fi, err := os.Lstat(name)
	if err != nil || !folder.Left(s.begun, fi.ModTime()) && strings.HasPrefix(base, durable.TempPrefix) {
		return nil // it has gone, or is in the making
	}
	if is, err := kept(); is || err != nil {
		return err
	}
	s.change.Lock()
	defer s.change.Unlock()
	if is, err := kept(); is || err != nil {
		return err
	}
	if err := durable.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.log.InfoContext(ctx, "file of no item removed", slog.String("file", path.Join(dir, base)))
	return nil
}

// removeLeft removes what there is of an item without a record.
func (s *Store) removeLeft(ctx context.Context, hash string) error {
	s.change.Lock()
	defer s.change.Unlock()
	if folder.Exists(s.record(hash)) {
		return nil // it has come meanwhile
	}
	return s.remove(ctx, hash)
}
