package nar

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// DedupMinSize is the size of the smallest file that is shared, in bytes: as
// in Guix, below it an entry in .links costs more than it saves
// (guix/store/deduplication.scm, %deduplication-minimum-size).
const DedupMinSize = 8192

// Dedup shares equal files among the items of a store, as Guix does: each is
// a hard link to STORE/.links/HASH, HASH being the SHA-256 in nix-base32 of
// the archive of that one file, and so of its executable bit too. It is safe
// for concurrent use.
//
// What lies in .links is trusted to have the content that its name says, as
// Guix trusts it. It must at least be a file of the right size, permissions
// and modification time; another one is left alone and not linked to.
type Dedup struct {
	dir *os.File
	fd  int // dir's
}

// OpenDedup opens the folder .links of storeDir, which it makes if needed.
func OpenDedup(storeDir string) (*Dedup, error) {
	path := filepath.Join(storeDir, ".links")
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("nar: dedup: %w", err)
	}
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("nar: dedup: %w", err)
	}
	return &Dedup{dir: dir, fd: int(dir.Fd())}, nil
}

// Close closes the folder. No Restore may be using d.
func (d *Dedup) Close() error { return d.dir.Close() }

// link makes name in the folder dirfd a link to the file of .links that k
// names, and reports whether it could.
func (d *Dedup) link(k fileKey, dirfd int, name string) (bool, error) {
	if ok, err := d.has(k); !ok {
		return false, err
	}
	err := linkat(d.fd, k.name, dirfd, name)
	if err == nil || dispensable(err) || errors.Is(err, unix.ENOENT) {
		return err == nil, nil
	}
	return false, err
}

// share puts the complete file name of the folder dirfd into .links, or if
// there is one like it already, replaces the file by a link to that.
func (d *Dedup) share(k fileKey, dirfd int, name string) error {
	err := linkat(dirfd, name, d.fd, k.name)
	if err == nil || dispensable(err) {
		return nil
	}
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if ok, err := d.has(k); !ok {
		return err
	}
	return d.replace(k, dirfd, name)
}

// replace makes the link beside the file, and then renames it. Its name until
// then is one that no archive can have foreseen, since entries are made at the
// same time.
func (d *Dedup) replace(k fileKey, dirfd int, name string) error {
	for {
		temp := fmt.Sprintf(".link-%016x", rand.Uint64())
		linked, err := d.link(k, dirfd, temp)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if !linked {
			return err
		}
		err = retry(func() error { return unix.Renameat(dirfd, temp, dirfd, name) })
		if err != nil {
			err = errors.Join(err, unlinkat(dirfd, temp, 0))
		}
		return err
	}
}

// has reports whether .links has a file that k names and that looks like it.
func (d *Dedup) has(k fileKey) (bool, error) {
	var st unix.Stat_t
	err := retry(func() error {
		return unix.Fstatat(d.fd, k.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil && uint32(st.Mode) == unix.S_IFREG|k.perm && st.Size == k.size && st.Mtim == unix.Timespec{Sec: mtime}, err
}

// dispensable reports whether an error of a link leaves a file unshared and
// nothing worse: no more links to a file or entries in a folder, quota, or a
// file system or kernel that does not link these two.
func dispensable(err error) bool {
	return slices.ContainsFunc([]error{unix.EMLINK, unix.ENOSPC, unix.EDQUOT, unix.EXDEV, unix.EPERM, unix.ENOTSUP},
		func(e error) bool { return errors.Is(err, e) })
}

func linkat(olddir int, oldname string, newdir int, newname string) error {
	return retry(func() error { return unix.Linkat(olddir, oldname, newdir, newname, 0) })
}
