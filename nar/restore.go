package nar

import (
	"errors"
	"fmt"
	"io"
	"os"

	"ersatz/internal/lanes"
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
// Small files are made by several goroutines, and another one hashes; r is read
// by the caller's alone, and the others have ended when Restore returns. It
// holds at most some 400 files and directories open (maxOpen).
//
// On any error, all that was made is removed. Of several the first in the
// archive's order is returned. It is a *SyntaxError for an archive that is
// refused; it matches ErrTooLarge for one that exceeds o.MaxSize, and
// fs.ErrExist if name exists, which is then left alone. A process that is
// killed leaves what it has made so far: restore under a temporary name in the
// folder where the item is to be, check the Info, then rename. Restore syncs
// nothing to the disk.
func Restore(r io.Reader, parent *os.Root, name string, o RestoreOptions) (Info, error) {
	chunks := ringSize
	if o.Dedup != nil && lanes.SHA256Width() > 1 {
		chunks = wideRing
	}
	return restore(r, parent, name, o, chunks)
}

// restore is Restore with a bound on the chunks, of minRing or more.
func restore(r io.Reader, parent *os.Root, name string, o RestoreOptions, chunks int) (Info, error) {
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
	p.src.ring.max = chunks
	rs := restorer{
		parser: p, maker: maker{item: name, dedup: o.Dedup}, crew: newCrew(p.src.ring, name, o.Dedup),
		root: name, dirs: []*folder{{fd: int(dot.Fd()), outside: true}},
	}
	defer rs.end() // in case r panics
	info, err := rs.run()
	if err != nil && rs.made {
		err = errors.Join(err, RemoveAll(parent, name))
	}
	return info, err
}

// restorer makes what a parser reads: directories and large files itself, and
// the rest by a crew.
type restorer struct {
	*parser
	maker
	crew *crew
	key  keyHash // of the large file that is being made
	root string
	dirs []*folder // dirs[0] is the parent of all; the last one is being filled

	// alone is the large file that is all of the archive, to be shared once that
	// has ended: the archive's own hash is its key then, so no other is computed.
	// Without one, its size is 0.
	alone event
}

func (rs *restorer) run() (Info, error) {
	err := rs.read()
	if first := rs.end(); first != nil {
		err = first
	}
	if err != nil {
		return Info{}, err
	}
	info := rs.src.info()
	if f := rs.alone; f.size > 0 {
		if err := rs.dedup.share(newFileKey(info.Hash, f.size, f.exec), rs.dirs[0].fd, rs.root); err != nil {
			return Info{}, rs.fail("link", "", err)
		}
	}
	return info, nil
}

// end returns when nothing is open or running any more. Its error is one of the
// crew's, whose jobs come before what has ended the reading in the archive.
func (rs *restorer) end() error {
	for _, d := range rs.dirs[1:] { // there are some if the reading has failed
		_ = rs.done(d) // they go
	}
	rs.dirs = rs.dirs[:1]
	return rs.crew.finish()
}

// read ends with the archive, an error, or when the crew has failed.
func (rs *restorer) read() error {
	for !rs.crew.hasFailed() {
		ev, err := rs.next()
		if err != nil {
			return err
		}
		if ev.kind == kindDone {
			return nil
		}
		if len(rs.dirs) == 1 {
			ev.name = rs.root
		}
		if err := rs.step(ev); err != nil {
			return err
		}
	}
	return nil
}

func (rs *restorer) step(ev event) error {
	switch ev.kind {
	case kindRegular:
		data, err := rs.content()
		if err != nil {
			return err
		}
		if int64(len(data)) < ev.size {
			return rs.large(ev, data)
		}
		return rs.give(job{dir: rs.dir(), name: ev.name, exec: ev.exec, data: data})
	case kindSymlink:
		return rs.give(job{dir: rs.dir(), name: ev.name, target: ev.target})
	case kindDirectory:
		d, err := rs.mkdir(rs.dir(), ev.name)
		if err != nil {
			return err
		}
		rs.dirs = append(rs.dirs, d)
		return nil
	}
	d := rs.dir()
	rs.dirs = rs.dirs[:len(rs.dirs)-1]
	return rs.done(d)
}

// dir returns the directory being filled.
func (rs *restorer) dir() *folder { return rs.dirs[len(rs.dirs)-1] }

// give has the crew do a job, unless it makes the root.
func (rs *restorer) give(j job) error {
	if len(rs.dirs) == 1 {
		return rs.do([]job{j})
	}
	rs.crew.add(j, rs.src.cur)
	return nil
}

// large makes a file whose content comes in pieces, the first of which is data.
// It is larger than what is not shared.
func (rs *restorer) large(ev event, data []byte) (err error) {
	shared := rs.dedup != nil && len(rs.dirs) > 1
	if rs.dedup != nil && !shared {
		rs.alone = ev
	}
	if shared {
		rs.key.begin(rs.src.ring, ev.size, ev.exec)
		defer rs.key.finish()
	}
	f, err := rs.create(rs.dir(), ev.name, ev.exec)
	if err != nil {
		return err
	}
	err = errStopped // in case the reader panics
	defer func() {
		var key *fileKey
		if err == nil && shared {
			k := rs.key.key()
			key = &k
		}
		err = rs.finish(f, key, err)
	}()
	err = rs.pieces(f, data, shared)
	return err
}

// pieces writes a file's content, the first piece of which is data, and adds it
// to the key if it is shared.
func (rs *restorer) pieces(f newFile, data []byte, shared bool) (err error) {
	for len(data) > 0 {
		if shared {
			rs.key.add(rs.src.cur, rs.src.lo-len(data), rs.src.lo)
		}
		if err := rs.write(f, data); err != nil {
			return err
		}
		if data, err = rs.content(); err != nil {
			return err
		}
	}
	return nil
}
