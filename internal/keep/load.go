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
)

// dirs returns the folders that files are written to, those of parts aside.
func dirs() []string {
	all := []string{infoDir, partsDir, narindex.TreeDir, narindex.TorrentDir}
	for _, m := range methods() {
		all = append(all, path.Join(narDir, m))
	}
	return all
}

// load makes what is missing, and finds out what is there, in a time that does
// not grow with the number of items.
func (s *Store) load(ctx context.Context) (err error) {
	if s.begun, err = folder.Begin(s.lock); err != nil {
		return err
	}
	for _, d := range dirs() {
		if err := durable.MkdirAll(s.path(d), 0o755); err != nil {
			return err
		}
	}
	if s.index, err = narindex.Open(s.dir); err != nil {
		return err
	}
	if s.cards, err = openCatalog(s.dir); err != nil {
		return err
	}
	s.indexBytes = s.indexSize()
	return errors.Join(s.count(), s.loadParts(ctx))
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
