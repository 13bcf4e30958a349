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
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), TempPrefix) || !e.Type().IsRegular() {
			continue
		}
		fi, err := e.Info()
		if err == nil && fi.ModTime().Before(olderThan) {
			path := filepath.Join(dir, e.Name())
			if err = injected("remove", path); err == nil {
				err = os.Remove(path)
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
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
