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
	"io/fs"
	"os"
	"syscall"
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
	open *os.File        // the folder
	dir  syscall.RawConn // its descriptor
}

var (
	_ block.Store  = (*Store)(nil)
	_ block.Reader = (*Store)(nil)
)

// Open returns the store in a folder that exists. Close it.
func Open(dir string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("block folder: %w", err)
	}
	s := &Store{root: root}
	if s.open, err = root.Open("."); err == nil {
		s.dir, err = s.open.SyscallConn()
	}
	if err != nil {
		return nil, fmt.Errorf("block folder: %w", errors.Join(err, s.Close()))
	}
	return s, nil
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

// Close gives the folder's handles back. The blocks stay.
func (s *Store) Close() error {
	var err error
	if s.open != nil {
		err = s.open.Close()
	}
	return errors.Join(err, s.root.Close())
}

// Get implements block.Getter. What has a block's name but is no file, or is
// longer than any block, is an error that matches eris.ErrCorrupt.
func (s *Store) Get(ctx context.Context, ref eris.Ref) ([]byte, error) { return s.get(ctx, ref, nil) }

// Read implements block.Reader.
func (s *Store) Read(ctx context.Context, ref eris.Ref, buf []byte) (int, error) {
	b, err := s.get(ctx, ref, buf)
	return len(b), err
}

func (s *Store) get(ctx context.Context, ref eris.Ref, buf []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := s.read(ref.String(), buf)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &eris.MissingError{Ref: ref}
	}
	if err != nil {
		return nil, fmt.Errorf("block folder: %w", err)
	}
	return b, nil
}

// read reads a file into buf, as much as it takes, or into new memory if buf is nil.
// It does without os.File, which finds out of each whether it can be waited for:
// there are many.
func (s *Store) read(name string, buf []byte) (b []byte, err error) {
	if e := s.dir.Control(func(dir uintptr) { b, err = readFile(int(dir), name, buf) }); e != nil {
		return nil, e
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b, nil
}

func readFile(dir int, name string, buf []byte) ([]byte, error) {
	// O_NONBLOCK so that a pipe with a block's name does not block.
	const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := again(func() (int, error) { return unix.Openat(dir, name, flags, 0) })
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%w: a link", eris.ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Size > int64(block.MaxSize) {
		return nil, fmt.Errorf("%w: not a file of at most %d bytes", eris.ErrCorrupt, block.MaxSize)
	}
	if buf == nil {
		buf = make([]byte, stat.Size)
	}
	n := 0
	for n < len(buf) {
		m, err := again(func() (int, error) { return unix.Read(fd, buf[n:]) })
		if err != nil {
			return nil, err
		}
		if n += m; m == 0 || int64(n) == stat.Size {
			break // the end, which it takes one read more to find
		}
	}
	return buf[:n], nil
}

// again calls a system call until no signal interrupts it.
func again(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
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
	if old, err := s.read(name, nil); err == nil && bytes.Equal(old, b) {
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
	var err error
	if e := s.dir.Control(func(dir uintptr) { err = unix.Syncfs(int(dir)) }); e != nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("block folder: sync: %w", err)
	}
	return nil
}
