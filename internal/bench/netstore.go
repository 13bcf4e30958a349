package bench

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"ersatz/internal/realguix"
	"ersatz/internal/storedb"
	"ersatz/nar"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

// shelf fills the store of a machine in which no daemon runs.
type shelf struct {
	machine *realguix.Machine
	dir     string // of the database: SQLite does not reach into machines
	db      *storedb.Scratch
}

func newShelf(m *realguix.Machine) (*shelf, error) {
	dir, err := os.MkdirTemp("", "ersatz-bench-")
	if err != nil {
		return nil, err
	}
	db, err := storedb.Create(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &shelf{m, dir, db}, nil
}

// close gives the machine its database.
func (s *shelf) close() error {
	err := s.db.Close()
	if err == nil {
		err = s.machine.CopyFile(filepath.Join(s.dir, "db/db.sqlite"), "/var/guix/db/db.sqlite", 0o644)
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// add makes a valid item. tree makes its files.
func (s *shelf) add(ctx context.Context, name string, refs []storepath.Path, tree func(path string) error) (item, error) {
	sum := sha256.Sum256([]byte(name))
	i := item{Item: realguix.Item{
		Path:       storepath.Path{Dir: storepath.Guix, Hash: nixbase32.Encode(sum[:20]), Name: name},
		References: refs,
	}}
	i.Tree = s.machine.Path(i.Path.String())
	if err := tree(i.Tree); err != nil {
		return item{}, err
	}
	var err error
	if i.nar, err = nar.Dump(io.Discard, i.Tree); err != nil {
		return item{}, err
	}
	return i, s.db.Register(ctx, storedb.Info{
		Path: i.Path, NarHash: i.nar.Hash, NarSize: uint64(i.nar.Size), References: refs, Registered: time.Unix(1, 0),
	})
}
