package keep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"

	"ersatz/eris"
	"ersatz/internal/block/narindex"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/storepath"
)

// dirs returns the folders that files are written to, those of parts aside.
func dirs() []string {
	all := []string{infoDir, partsDir, narindex.TreeDir, narindex.TorrentDir}
	for _, m := range methods() {
		all = append(all, path.Join(narDir, m))
	}
	return all
}

// load reads what is there, and removes what is of no item.
func (s *Store) load(ctx context.Context) (err error) {
	for _, d := range dirs() {
		if err := durable.MkdirAll(s.path(d), 0o755); err != nil {
			return err
		}
		// Nobody else writes here, so that each temporary file is a leftover,
		// even one from the future.
		if err := durable.SweepTemp(s.path(d), s.now().AddDate(100, 0, 0)); err != nil {
			return err
		}
	}
	if s.index, err = narindex.Open(s.dir); err != nil {
		return err
	}
	if err := folder.List(s.path(infoDir), func(name string) error { return s.loadItem(ctx, name) }); err != nil {
		return err
	}
	s.indexBytes = s.indexSize()
	return errors.Join(s.sweepNars(ctx), s.sweepIndex(ctx), s.sweepTrees(ctx), s.loadParts(ctx))
}

// loadItem makes the entry of a record. One whose record cannot be read or whose nar
// is not as long as it says is removed.
func (s *Store) loadItem(ctx context.Context, hash string) error {
	if !storepath.ValidHash(hash) {
		return nil
	}
	e, err := s.entry(hash)
	if err == nil {
		s.add(e)
		return nil
	}
	if !errors.Is(err, errRecord) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.log.WarnContext(ctx, "broken item removed", slog.String("hash", hash), slog.Any("error", err))
	return removeItem(ctx, s.dir, s.index, hash)
}

// entry reads the entry of an item from disk.
func (s *Store) entry(hash string) (*entry, error) {
	name := s.record(hash)
	i, err := readItem(name)
	if err != nil {
		return nil, err
	}
	if i.Path.Hash != hash {
		return nil, fmt.Errorf("%s: %w: it is of %s", name, errRecord, i.Path)
	}
	e := &entry{path: i.Path, narHash: i.NarHash, method: i.Method}
	nar, err := os.Stat(s.path(e.nar()))
	if err != nil {
		return nil, err
	}
	if nar.Size() != i.Size {
		return nil, fmt.Errorf("%s: %w: the nar has %d bytes, not %d", name, errRecord, nar.Size(), i.Size)
	}
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	e.came = fi.ModTime()
	if e.noted, err = folder.AccessTime(name); err != nil {
		return nil, err
	}
	if e.noted.Unix() > 0 {
		e.asked = e.noted
	}
	e.size = s.allocated(e)
	return e, nil
}

// allocated returns what an item takes on disk.
func (s *Store) allocated(e *entry) int64 {
	return folder.Allocated(s.path(e.nar())) + folder.Allocated(s.record(e.path.Hash)) +
		folder.Allocated(s.path(path.Join(narindex.TreeDir, e.path.Base()))) +
		folder.Allocated(s.path(path.Join(narindex.TorrentDir, e.path.Base())))
}

// kept returns the item that the last component of a store path is of, or nil.
func (s *Store) kept(base string) *entry {
	p, err := storepath.ParseBase("/", base)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.items[p.Hash]; e != nil && e.path.Base() == base {
		return e
	}
	return nil
}

// sweepNars removes the nars that belong to no item.
func (s *Store) sweepNars(ctx context.Context) error {
	var errs []error
	for _, m := range methods() {
		errs = append(errs, folder.List(s.path(path.Join(narDir, m)), func(base string) error {
			name := narName(m, base)
			if e := s.kept(base); e != nil && e.method == m {
				return nil
			}
			s.log.InfoContext(ctx, "nar of no item removed", slog.String("file", name))
			return durable.Remove(s.path(name))
		}))
	}
	return errors.Join(errs...)
}

// sweepIndex removes what the index has of others.
func (s *Store) sweepIndex(ctx context.Context) error {
	for after := ""; ; {
		i, err := s.index.Next(ctx, after, false)
		if errors.Is(err, narindex.ErrNoItem) {
			return nil
		}
		if err != nil {
			return err
		}
		after = i.Hash
		if e := s.kept(i.Base); e == nil || e.nar() != i.Nar {
			if err := s.index.Remove(ctx, i.Hash); err != nil {
				return err
			}
		}
	}
}

func (s *Store) sweepTrees(context.Context) error {
	for _, dir := range []string{narindex.TreeDir, narindex.TorrentDir} {
		err := folder.List(s.path(dir), func(base string) error {
			if s.kept(base) != nil {
				return nil
			}
			return durable.Remove(s.path(path.Join(dir, base)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// loadParts finds the parts that others have left.
func (s *Store) loadParts(ctx context.Context) error {
	return folder.List(s.path(partsDir), func(name string) error {
		id, dir := PartID(name), s.path(path.Join(partsDir, name))
		fi, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		if !id.valid() || !fi.IsDir() {
			s.log.WarnContext(ctx, "what is no part was left alone", slog.String("file", dir))
			return nil
		}
		if err := durable.SweepTemp(dir, s.now().AddDate(100, 0, 0)); err != nil {
			return err
		}
		a, err := readRecord(filepath.Join(dir, aboutFile))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errRecord) {
			return removePart(dir) // it was being made or removed
		}
		if err != nil {
			return err
		}
		l := leftIn(dir)
		l.narHash = a.Item.NarHash
		s.idle[id] = l
		s.partBytes += l.size
		return nil
	})
}

// leftIn looks at a part that nobody has.
func leftIn(dir string) (l left) {
	for _, name := range []string{contentFile, nodesFile, aboutFile} {
		name = filepath.Join(dir, name)
		l.size += folder.Allocated(name)
		if fi, err := os.Stat(name); err == nil && fi.ModTime().After(l.used) {
			l.used = fi.ModTime()
		}
	}
	return l
}

// removePart removes the files of a part: about first, without which the rest
// belongs to nothing.
func removePart(dir string) error {
	for _, name := range []string{aboutFile, nodesFile, contentFile, ""} {
		err := durable.Remove(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("keep: removing a part: %w", err)
		}
	}
	return nil
}

// valid reports whether id can be the name of a part's folder.
func (id PartID) valid() bool {
	rest, ok := strings.CutPrefix(string(id), blocksPrefix)
	if !ok {
		rest, ok = strings.CutPrefix(string(id), narPrefix)
	}
	_, err := eris.ParseRef(rest)
	return ok && err == nil
}
