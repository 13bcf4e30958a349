package demo

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"ersatz/internal/storedb"
	"ersatz/nar"
	"ersatz/storepath"
)

//go:embed item
var sample embed.FS

// item is an item of the first store.
type item struct {
	path  storepath.Path
	info  storedb.Info
	files int
	urn   string
}

// store is a scratch store with a database like Guix's.
type store struct {
	dir, state string
	scratch    *storedb.Scratch
	db         *storedb.DB
	items      []*item
}

func newStore(dir string) (*store, error) {
	s := &store{dir: filepath.Join(dir, "store"), state: filepath.Join(dir, "state")}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	if s.scratch, err = storedb.Create(s.state); err != nil {
		return nil, err
	}
	if s.db, err = storedb.Open(storedb.Options{StoreDir: s.dir, StateDir: s.state}); err != nil {
		return nil, errors.Join(err, s.scratch.Close())
	}
	return s, nil
}

func (s *store) close() error { return errors.Join(s.db.Close(), s.scratch.Close()) }

// add copies a file or folder into the store, as its nar, and makes it valid. A
// content that is there already is not added: nodes keep each once.
func (s *store) add(ctx context.Context, path, name string, refs ...storepath.Path) (storepath.Path, error) {
	none := storepath.Path{}
	info, err := nar.Dump(io.Discard, path)
	if err != nil {
		return none, err
	}
	for _, i := range s.items {
		if i.info.NarHash == info.Hash {
			return i.path, nil
		}
	}
	p, err := storepath.Source(s.dir, name, info.Hash, refs)
	if err != nil {
		return none, err
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return none, err
	}
	defer root.Close()
	r, w := io.Pipe()
	go func() {
		_, err := nar.Dump(w, path)
		w.CloseWithError(err)
	}()
	_, err = nar.Restore(r, root, p.Base(), nar.RestoreOptions{})
	r.Close() // ends a dump that nobody reads
	if err != nil {
		return none, err
	}
	i := &item{path: p, info: storedb.Info{
		Path: p, NarHash: info.Hash, NarSize: uint64(info.Size), References: refs, Registered: time.Unix(1, 0),
	}}
	if err := filepath.WalkDir(p.String(), func(string, os.DirEntry, error) error { i.files++; return nil }); err != nil {
		return none, err
	}
	s.items = append(s.items, i)
	return p, s.scratch.Register(ctx, i.info)
}

// addSample adds the folder that is part of the program.
func (d *demonstration) addSample(ctx context.Context) (storepath.Path, error) {
	dir := filepath.Join(d.dir, "sample")
	if err := os.CopyFS(dir, sample); err != nil {
		return storepath.Path{}, err
	}
	item := filepath.Join(dir, "item")
	err := errors.Join(os.Chmod(filepath.Join(item, "hello.sh"), 0o755), os.Symlink("hello.sh", filepath.Join(item, "hello")))
	if err != nil {
		return storepath.Path{}, err
	}
	return d.store.add(ctx, item, "sample-demo")
}

// largest returns the item with the largest nar.
func (s *store) largest() *item {
	largest := s.items[0]
	for _, i := range s.items {
		if i.info.NarSize > largest.info.NarSize {
			largest = i
		}
	}
	return largest
}

// compare hashes what was installed.
func (i *item) compare(dest string) error {
	info, err := nar.Dump(io.Discard, dest)
	if err != nil {
		return err
	}
	if info.Hash != i.info.NarHash {
		return fmt.Errorf("%s is not the same as %s", dest, i.path)
	}
	return nil
}

// removeAll removes the folder, in which store items are write-protected.
func removeAll(dir string) error {
	root, err := os.OpenRoot(filepath.Dir(dir))
	if err != nil {
		return err
	}
	return errors.Join(nar.RemoveAll(root, filepath.Base(dir)), root.Close())
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// size prints bytes for people.
func size(n int64) string {
	switch {
	case n < 10_000:
		return fmt.Sprintf("%d B", n)
	case n < 10_000_000:
		return fmt.Sprintf("%d kB", n/1000)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
