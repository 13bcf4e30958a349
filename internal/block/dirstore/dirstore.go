// Package dirstore keeps ERIS blocks in one flat folder, each in a file that
// has the block's reference as its name: 52 characters of upper-case unpadded
// Base32. The folder can be served, copied and merged with others as it is.
//
// A block's file appears whole, by a rename. It is not synced by itself, for
// there are many: Sync does that for all at once. Without it, a power failure
// may leave files with wrong content, which block.Verify tells and a Put of
// the same block repairs.
package dirstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/durable"
)

// leftoverAge is how old a temporary file has to be for Create to take it for
// what a killed process left: a Put takes far less.
const leftoverAge = time.Hour

// Store is a block.Store. Make it with Open or Create.
type Store struct {
	root *os.Root
}

var _ block.Store = (*Store)(nil)

// Open returns the store in a folder that exists. Close it.
func Open(dir string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("block folder: %w", err)
	}
	return &Store{root}, nil
}

// Create is Open for who is going to Put: it makes the folder, and the parents
// it lacks, and removes the temporary files that killed processes have left.
func Create(dir string) (*Store, error) {
	if err := durable.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("block folder: %w", err)
	}
	if err := durable.SweepTemp(dir, time.Now().Add(-leftoverAge)); err != nil {
		return nil, fmt.Errorf("block folder: %w", err)
	}
	return Open(dir)
}

// Close gives the folder's handle back. The blocks stay.
func (s *Store) Close() error { return s.root.Close() }

// Get implements block.Getter. What has a block's name but is no file, or is
// longer than any block, is an error that matches eris.ErrCorrupt.
func (s *Store) Get(ctx context.Context, ref eris.Ref) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := s.read(ref.String())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &eris.MissingError{Ref: ref}
	}
	if err != nil {
		return nil, fmt.Errorf("block folder: %w", err)
	}
	return b, nil
}

func (s *Store) read(name string) ([]byte, error) {
	// O_NONBLOCK so that a pipe with a block's name does not block.
	f, err := s.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > int64(block.MaxSize) {
		return nil, fmt.Errorf("%s: %w: not a file of at most %d bytes", name, eris.ErrCorrupt, block.MaxSize)
	}
	b := make([]byte, fi.Size())
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	return b[:n], nil
}

// Put implements block.Putter. A file that has the block's name and other
// content is replaced.
func (s *Store) Put(ctx context.Context, ref eris.Ref, b []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := block.CheckSize(ref, b); err != nil {
		return err
	}
	name := ref.String()
	if old, err := s.read(name); err == nil && bytes.Equal(old, b) {
		return nil
	}
	if err := s.write(name, b); err != nil {
		return fmt.Errorf("block folder: %w", err)
	}
	return nil
}

func (s *Store) write(name string, b []byte) (err error) {
	temp := durable.TempPrefix + name + "-" + rand.Text()
	f, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.root.Remove(temp))
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return s.root.Rename(temp, name)
}

// Sync returns when all blocks that were put outlive a power failure. It has
// the whole file system written that the folder is on.
func (s *Store) Sync() error {
	d, err := s.root.Open(".")
	if err != nil {
		return fmt.Errorf("block folder: %w", err)
	}
	if err = unix.Syncfs(int(d.Fd())); err != nil {
		err = fmt.Errorf("block folder: sync: %w", err)
	}
	return errors.Join(err, d.Close())
}
