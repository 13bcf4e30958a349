package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// File is a file being written under a temporary name. Exactly one of Commit
// and Abort decides what becomes of it; calling Abort after either is a no-op,
// so that it can be deferred. It is not safe for concurrent use.
type File struct {
	f    *os.File
	path string // the name it gets by Commit
	perm fs.FileMode
	done bool
}

var (
	_ io.Writer   = (*File)(nil)
	_ io.ReaderAt = (*File)(nil)
)

// Create makes a temporary file in the folder of path. Commit gives it the
// name path and exactly the permissions perm; until then only its owner can
// read it.
func Create(path string, perm fs.FileMode) (*File, error) {
	if err := injected("create", path); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), TempPrefix+"*")
	if err != nil {
		return nil, err
	}
	return &File{f: f, path: path, perm: perm}, nil
}

// Write appends p to the file.
func (f *File) Write(p []byte) (int, error) {
	if err := injected("write", f.path); err != nil {
		return 0, err
	}
	return f.f.Write(p)
}

// ReadAt reads back what has been written.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// TempName returns the name that the file has until Commit.
func (f *File) TempName() string { return f.f.Name() }

// Commit syncs the file and gives it its name and permissions. On an error
// the temporary file is removed and what had the name before still has it,
// unless only the folder's sync failed (see WriteFile).
func (f *File) Commit() error {
	if f.done {
		return &fs.PathError{Op: "commit", Path: f.path, Err: fs.ErrClosed}
	}
	if err := f.settle(); err != nil {
		return errors.Join(err, f.Abort())
	}
	return f.publish()
}

// publish gives the settled file its name.
func (f *File) publish() error {
	if err := rename(f.f.Name(), f.path); err != nil {
		return errors.Join(err, f.Abort())
	}
	f.done = true
	return syncDir(filepath.Dir(f.path))
}

// settle makes the content and the permissions durable and closes the file.
func (f *File) settle() error {
	if err := injected("chmod", f.path); err != nil {
		return err
	}
	if err := f.f.Chmod(f.perm); err != nil {
		return err
	}
	if err := injected("sync", f.path); err != nil {
		return err
	}
	if err := f.f.Sync(); err != nil {
		return err
	}
	if err := injected("close", f.path); err != nil {
		return err
	}
	return f.f.Close()
}

// Abort removes the temporary file. After Commit or Abort it does nothing.
func (f *File) Abort() error {
	if f.done {
		return nil
	}
	f.done = true
	err := f.f.Close()
	if errors.Is(err, fs.ErrClosed) {
		err = nil // Commit had closed it before it failed
	}
	if ierr := injected("remove", f.f.Name()); ierr != nil {
		return errors.Join(err, ierr)
	}
	return errors.Join(err, os.Remove(f.f.Name()))
}
