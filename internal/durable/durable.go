// Package durable changes files as if the power could fail at any moment: new
// content goes to a temporary file in the same folder, is synced, gets its
// name by a rename, and the folder is synced. Whoever opens a name finds the
// old content or the new, whole; after a function has returned nil, the new
// one, also across a power failure.
//
// A process that is killed in mid-work leaves temporary files behind, never a
// half-written file under its final name. They start with TempPrefix;
// SweepTemp removes them. The exception is Scratch, whose reader verifies.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// TempPrefix starts the name of each temporary file.
const TempPrefix = ".tmp-"

// WriteFile writes the file path: fill is handed an unbuffered writer to a
// temporary file, which then takes the name path, replacing what was there,
// with exactly the permissions perm (the umask has no say). On an error, fill's
// or another, the old content stays and the temporary file is removed; only
// when the folder's sync fails, last of all, the new content is in place and
// whole but may not outlive a power failure.
func WriteFile(path string, perm fs.FileMode, fill func(w io.Writer) error) error {
	f, err := Create(path, perm)
	if err != nil {
		return err
	}
	if err := fill(f); err != nil {
		return errors.Join(err, f.Abort())
	}
	return f.Commit()
}

// Remove removes the file or empty folder path and syncs its folder.
func Remove(path string) error {
	if err := injected("remove", path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Rename gives the file oldpath the name newpath, replacing what is there, and
// syncs both folders. It does not sync the file's content.
func Rename(oldpath, newpath string) error {
	if err := rename(oldpath, newpath); err != nil {
		return err
	}
	from, to := filepath.Dir(oldpath), filepath.Dir(newpath)
	if err := syncDir(to); err != nil {
		return err
	}
	if from == to {
		return nil
	}
	return syncDir(from)
}

// MkdirAll makes the folder path and the parents it lacks, and syncs the
// parent of each one made. Like os.MkdirAll it is content with what exists,
// and perm is subject to the umask.
func MkdirAll(path string, perm fs.FileMode) error {
	fi, err := os.Stat(path)
	if err == nil {
		if !fi.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := injected("mkdir", path); err != nil {
		return err
	}
	// Another process may have made it meanwhile: its sync may still be to
	// come, so ours is not left out.
	if err := os.Mkdir(path, perm); err != nil && !isDir(path) {
		return err
	}
	return syncDir(parent)
}

// SweepTemp removes the temporary files directly in the folder dir that were
// last written before olderThan: what killed processes have left. A folder
// that does not exist is clean. It goes on after an error and returns all.
func SweepTemp(dir string, olderThan time.Time) error {
	return SweepTempIf(dir, func(last time.Time) bool { return last.Before(olderThan) }, func() error { return nil })
}

// maxSweepErrors bounds the errors that are kept of a sweep.
const maxSweepErrors = 16

// SweepTempIf is SweepTemp for a folder that may have very many files, of which
// it holds a few names at a time, and in which others may be at work: left says
// by the time when a temporary file was last written whether a killed process
// has left it. Between the parts of the work pause is called, whose error ends
// it.
func SweepTempIf(dir string, left func(last time.Time) bool, pause func() error) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close() // it was only read
	var errs []error
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			if !strings.HasPrefix(name, TempPrefix) {
				continue
			}
			if err := sweepOne(filepath.Join(dir, name), left); err != nil && len(errs) < maxSweepErrors {
				errs = append(errs, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return errors.Join(errs...)
		}
		if err == nil {
			err = pause()
		}
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
}

// sweepOne removes a temporary file if it was left.
func sweepOne(path string, left func(last time.Time) bool) error {
	fi, err := os.Lstat(path)
	if err == nil && fi.Mode().IsRegular() && left(fi.ModTime()) {
		if err = injected("remove", path); err == nil {
			err = os.Remove(path)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func rename(oldpath, newpath string) error {
	if err := injected("rename", newpath); err != nil {
		return err
	}
	return os.Rename(oldpath, newpath)
}

// syncDir makes the names in a folder durable. File systems that cannot sync
// a folder say so by EINVAL or ENOTSUP; there is no more to be done on those.
func syncDir(dir string) error {
	if err := injected("syncdir", dir); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}
