package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Scratch is a file that is written in place and in any order. What it holds
// after a crash is for its reader to verify: nothing is durable before Sync. It
// is safe for concurrent use.
type Scratch struct {
	f    *os.File
	path string
}

// OpenScratch opens the file path for reading and writing, which it makes if
// there is none. Only its owner can read a new one.
func OpenScratch(path string) (*Scratch, error) {
	if err := injected("create", path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &Scratch{f, path}, nil
}

// ReadAt implements io.ReaderAt.
func (s *Scratch) ReadAt(p []byte, off int64) (int, error) { return s.f.ReadAt(p, off) }

// WriteAt implements io.WriterAt. What lies between the end and off becomes a
// hole.
func (s *Scratch) WriteAt(p []byte, off int64) (int, error) {
	if err := injected("write", s.path); err != nil {
		return 0, err
	}
	return s.f.WriteAt(p, off)
}

// Truncate makes the file size bytes long.
func (s *Scratch) Truncate(size int64) error {
	if err := injected("write", s.path); err != nil {
		return err
	}
	return s.f.Truncate(size)
}

// Settle gives the file the permissions perm and makes it durable, for Rename.
func (s *Scratch) Settle(perm os.FileMode) error {
	if err := injected("chmod", s.path); err != nil {
		return err
	}
	if err := s.f.Chmod(perm); err != nil {
		return err
	}
	if err := injected("sync", s.path); err != nil {
		return err
	}
	return s.f.Sync()
}

// Stat returns what the system knows of the file.
func (s *Scratch) Stat() (os.FileInfo, error) { return s.f.Stat() }

// Hole reports whether the size bytes from off on are surely a hole, or lie
// beyond the end: then nothing was written there.
func (s *Scratch) Hole(off, size int64) bool {
	// Nothing here reads or writes at the file's position.
	at, err := s.f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return true
	}
	return err == nil && at >= off+size
}

// Close closes the file.
func (s *Scratch) Close() error { return s.f.Close() }
