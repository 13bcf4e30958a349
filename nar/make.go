package nar

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// folder is a directory of the tree that is being made.
type folder struct {
	fd      int
	path    string // in the archive; "" is the root
	outside bool   // the parent of the root, which is not part of the tree

	// todo is how many entries are still to be made, and one more until the
	// archive's part of the directory has ended.
	todo atomic.Int32
}

// pathOf returns the path in the archive of the entry name.
func (d *folder) pathOf(name string) string {
	switch {
	case d.outside:
		return ""
	case d.path == "":
		return name
	}
	return d.path + "/" + name
}

// job is an entry to be made.
type job struct {
	dir    *folder
	name   string
	target string // of a link; "" makes a file
	exec   bool
	data   []byte
}

// shared reports whether it is a file that .links has too, where there is one.
func (j *job) shared() bool { return len(j.data) >= DedupMinSize }

// maker makes entries. It belongs to one goroutine.
type maker struct {
	item  string // name of the root, for errors
	dedup *Dedup // or nil
	sums  keySums
	made  bool // something exists that did not
}

func (m *maker) fail(op, path string, err error) error {
	return fmt.Errorf("nar: restore %s: %s %q: %w", m.item, op, path, err)
}

// mkdir makes a directory, which stays writable until it is done.
func (m *maker) mkdir(in *folder, name string) (*folder, error) {
	path := in.pathOf(name)
	if err := retry(func() error { return unix.Mkdirat(in.fd, name, 0o700) }); err != nil {
		return nil, m.fail("mkdir", path, err)
	}
	m.made = true
	fd, err := openDir(in.fd, name)
	if errors.Is(err, unix.EACCES) { // the umask has kept even its owner out
		if err := unix.Fchmodat(in.fd, name, 0o700, 0); err != nil {
			return nil, m.fail("chmod", path, err)
		}
		fd, err = openDir(in.fd, name)
	}
	if err != nil {
		return nil, m.fail("open", path, err)
	}
	d := &folder{fd: fd, path: path}
	d.todo.Store(1)
	if err := unix.Fchmod(fd, 0o700); err != nil {
		return nil, errors.Join(m.fail("chmod", path, err), unix.Close(fd))
	}
	return d, nil
}

// done has one thing less to be done in d. The last one gives the directory its
// metadata and closes it.
func (m *maker) done(d *folder) error {
	if d.todo.Add(-1) > 0 {
		return nil
	}
	err := errors.Join(unix.Fchmod(d.fd, 0o555), futimens(d.fd, storeTime()), unix.Close(d.fd))
	if err != nil {
		return m.fail("finish", d.path, err)
	}
	return nil
}

// do makes the entries of jobs one after the other, until one fails.
func (m *maker) do(jobs []job) error {
	var keys []fileKey
	if m.dedup != nil {
		keys = m.sums.of(jobs)
	}
	for i := range jobs {
		j := &jobs[i]
		var err error
		switch {
		case j.target != "":
			err = m.symlink(j)
		case keys != nil && keys[i].name != "":
			err = m.shared(j, keys[i])
		default:
			err = m.file(j, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// shared makes a file that is shared by key. If there is one like it, a link
// saves writing this one.
func (m *maker) shared(j *job, key fileKey) error {
	linked, err := m.dedup.link(key, j.dir.fd, j.name)
	if err != nil {
		return m.fail("link", j.dir.pathOf(j.name), err)
	}
	if linked {
		m.made = true
		return nil
	}
	return m.file(j, &key)
}

// file makes a file, and shares it by key unless that is nil.
func (m *maker) file(j *job, key *fileKey) error {
	f, err := m.create(j.dir, j.name, j.exec)
	if err != nil {
		return err
	}
	return m.finish(f, key, m.write(f, j.data))
}

func (m *maker) symlink(j *job) error {
	if err := retry(func() error { return unix.Symlinkat(j.target, j.dir.fd, j.name) }); err != nil {
		return m.fail("symlink", j.dir.pathOf(j.name), err)
	}
	m.made = true
	if err := retry(func() error {
		return unix.UtimesNanoAt(j.dir.fd, j.name, storeTime()[:], unix.AT_SYMLINK_NOFOLLOW)
	}); err != nil {
		return m.fail("set time", j.dir.pathOf(j.name), err)
	}
	return nil
}

// newFile is a file that is being written.
type newFile struct {
	fd   int
	dir  *folder
	name string
	perm uint32
}

func permOf(exec bool) uint32 {
	if exec {
		return 0o555
	}
	return 0o444
}

func (m *maker) create(dir *folder, name string, exec bool) (newFile, error) {
	f := newFile{dir: dir, name: name, perm: permOf(exec)}
	var err error
	f.fd, err = openat(dir.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, f.perm)
	if err != nil {
		return f, m.fail("create", dir.pathOf(name), err)
	}
	m.made = true
	return f, nil
}

func (m *maker) write(f newFile, data []byte) error {
	if err := writeAll(f.fd, data); err != nil {
		return m.fail("write", f.dir.pathOf(f.name), err)
	}
	return nil
}

// finish closes f, in any case. If err is nil, and writing it has been no error,
// f gets its metadata, and is shared by its key unless that is nil.
func (m *maker) finish(f newFile, key *fileKey, err error) error {
	failed := func(op string, e error) {
		if e != nil && err == nil {
			err = m.fail(op, f.dir.pathOf(f.name), e)
		}
	}
	if err == nil {
		failed("chmod", unix.Fchmod(f.fd, f.perm)) // the umask may have had its say
	}
	if err == nil {
		failed("set time", futimens(f.fd, storeTime()))
	}
	failed("close", unix.Close(f.fd))
	if err == nil && key != nil {
		failed("link", m.dedup.share(*key, f.dir.fd, f.name))
	}
	return err
}

// mtime is the modification time of all that is in a store, in seconds since
// the epoch.
const mtime = 1

func storeTime() *[2]unix.Timespec { return &[2]unix.Timespec{{Sec: mtime}, {Sec: mtime}} }
