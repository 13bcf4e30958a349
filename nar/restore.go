package nar

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// RestoreOptions are the options of Restore. The zero value is ready to use.
type RestoreOptions struct {
	// MaxSize bounds the archive, in bytes. No more of the stream is read,
	// and nothing of a file that goes beyond is written. Default: no bound.
	MaxSize int64

	// MaxDepth bounds how many directories enclose an entry. Default, and
	// greatest value: MaxDepth.
	MaxDepth int

	// Dedup, if not nil, is where files are shared with those of other
	// store items.
	Dedup *Dedup
}

// Restore reads an archive from r and makes the file, link or directory name
// in parent of it, with the metadata that store items have: permissions 0444,
// or 0555 for directories and executable files, whatever the umask, and a
// modification time of 1 second after the epoch. name is a single component
// and must not exist.
//
// On any error, all that was made is removed. The error is a *SyntaxError for
// an archive that is refused; it matches ErrTooLarge for one that exceeds
// o.MaxSize, and fs.ErrExist if name exists, which is then left alone. A
// process that is killed leaves what it has made so far: restore under a
// temporary name in the folder where the item is to be, check the Info, then
// rename. Restore syncs nothing to the disk.
func Restore(r io.Reader, parent *os.Root, name string, o RestoreOptions) (Info, error) {
	if err := validName(name); err != nil {
		return Info{}, fmt.Errorf("nar: restore: %w", err)
	}
	dot, err := parent.Open(".")
	if err != nil {
		return Info{}, fmt.Errorf("nar: restore %s: %w", name, err)
	}
	defer dot.Close()
	p := newParser(r, o.MaxSize, o.MaxDepth)
	defer p.src.release()
	rs := restorer{parser: p, name: name, dedup: o.Dedup, dirs: []*folder{{root: parent, dot: dot, fd: int(dot.Fd())}}}
	info, err := rs.run()
	if err != nil && rs.made {
		err = errors.Join(err, RemoveAll(parent, name))
	}
	return info, err
}

// restorer makes what a parser reads.
type restorer struct {
	*parser
	name  string // of the root
	dedup *Dedup
	dirs  []*folder // dirs[0] is the parent of all; the last one is being filled
	made  bool      // the root exists and is ours: it goes if there is an error
}

func (rs *restorer) run() (Info, error) {
	defer func() {
		for _, d := range rs.dirs[1:] {
			d.close()
		}
	}()
	for {
		ev, err := rs.next()
		if err != nil {
			return Info{}, err
		}
		if ev.kind == kindDone {
			return rs.src.hasher.Info(), nil
		}
		if len(rs.dirs) == 1 {
			ev.name = rs.name
		}
		if err := rs.step(ev); err != nil {
			return Info{}, err
		}
	}
}

func (rs *restorer) step(ev event) error {
	switch ev.kind {
	case kindRegular:
		return rs.regular(ev)
	case kindSymlink:
		fd := rs.dir().fd
		if err := retry(func() error { return unix.Symlinkat(ev.target, fd, ev.name) }); err != nil {
			return rs.fail("symlink", err)
		}
		rs.made = true
		return rs.settle(fd, ev.name)
	case kindDirectory:
		return rs.enter(ev.name)
	}
	return rs.leave()
}

// dir returns the directory being filled.
func (rs *restorer) dir() *folder { return rs.dirs[len(rs.dirs)-1] }

// enter makes a directory, which it leaves writable until it is full.
func (rs *restorer) enter(name string) error {
	parent := rs.dir().root
	if err := parent.Mkdir(name, 0o700); err != nil {
		return rs.fail("mkdir", err)
	}
	rs.made = true
	// The umask may have kept even its owner out.
	if err := unix.Fchmodat(rs.dir().fd, name, 0o700, 0); err != nil {
		return rs.fail("chmod", err)
	}
	root, err := parent.OpenRoot(name)
	if err != nil {
		return rs.fail("open", err)
	}
	d, err := openFolder(root, name)
	if err != nil {
		return rs.fail("open", err)
	}
	rs.dirs = append(rs.dirs, d)
	return nil
}

// leave gives a full directory its metadata.
func (rs *restorer) leave() error {
	d := rs.dir()
	rs.dirs = rs.dirs[:len(rs.dirs)-1]
	err := unix.Fchmod(d.fd, 0o555)
	if err := errors.Join(err, d.close()); err != nil {
		return rs.fail("chmod", err)
	}
	return rs.settle(rs.dir().fd, d.name)
}

// regular makes a file, or a link to one that has the same content.
func (rs *restorer) regular(ev event) error {
	chunk, err := rs.content()
	if err != nil {
		return err
	}
	fd := rs.dir().fd
	var key *fileKey
	if rs.dedup != nil && ev.size >= DedupMinSize {
		key = newFileKey(ev)
		key.write(chunk)
		if int64(len(chunk)) == ev.size {
			// All of it is here: if there is such a file, a link
			// saves writing this one.
			linked, err := rs.dedup.link(key, fd, ev.name)
			if err != nil {
				return rs.fail("link", err)
			}
			if linked {
				rs.made = true
				_, err := rs.content()
				return err
			}
		}
	}
	if err := rs.write(fd, ev, chunk, key); err != nil {
		return err
	}
	if key != nil {
		if err := rs.dedup.share(key, fd, ev.name); err != nil {
			return rs.fail("link", err)
		}
	}
	return nil
}

// write makes a file of chunk and the content that follows it, all of which
// passes through key if there is one.
func (rs *restorer) write(dirfd int, ev event, chunk []byte, key *fileKey) (err error) {
	perm := uint32(0o444)
	if ev.exec {
		perm = 0o555
	}
	fd, err := openat(dirfd, ev.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, perm)
	if err != nil {
		return rs.fail("create", err)
	}
	rs.made = true
	defer func() {
		if cerr := unix.Close(fd); cerr != nil && err == nil {
			err = rs.fail("close", cerr)
		}
		if err == nil {
			err = rs.settle(dirfd, ev.name)
		}
	}()
	for first := true; ; first = false {
		if !first {
			if chunk, err = rs.content(); err != nil {
				return err
			}
			if key != nil {
				key.write(chunk)
			}
		}
		if len(chunk) == 0 {
			break
		}
		if err := writeAll(fd, chunk); err != nil {
			return rs.fail("write", err)
		}
	}
	if err := unix.Fchmod(fd, perm); err != nil { // the umask may have had its say
		return rs.fail("chmod", err)
	}
	return nil
}

// settle gives an entry its modification time, to a link itself.
func (rs *restorer) settle(dirfd int, name string) error {
	if err := retry(func() error {
		return unix.UtimesNanoAt(dirfd, name, storeTime(), unix.AT_SYMLINK_NOFOLLOW)
	}); err != nil {
		return rs.fail("set time", err)
	}
	return nil
}

// mtime is the modification time of all that is in a store, in seconds since
// the epoch.
const mtime = 1

func storeTime() []unix.Timespec { return []unix.Timespec{{Sec: mtime}, {Sec: mtime}} }

func (rs *restorer) fail(op string, err error) error {
	return fmt.Errorf("nar: restore %s: %s %q: %w", rs.name, op, rs.path, err)
}
