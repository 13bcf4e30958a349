package nar

import "io"

// Type says what an entry is.
type Type uint8

// The types of entries.
const (
	Regular Type = iota
	Symlink
	Directory
)

func (t Type) String() string {
	switch t {
	case Regular:
		return "regular"
	case Symlink:
		return "symlink"
	}
	return "directory"
}

// Entry is a file, link or directory in an archive.
type Entry struct {
	Path       string // slash-separated, relative to the root; "" is the root
	Type       Type
	Executable bool   // Regular
	Size       int64  // Regular: bytes of content
	Target     string // Symlink
}

// List reads an archive to its end and calls visit with each entry, in the
// archive's order, directories before what is in them. It returns the first
// error of visit, or the one that reading ended with: a *SyntaxError for an
// archive that is refused, else r's own, wrapped.
func List(r io.Reader, visit func(Entry) error) (Info, error) {
	p := newParser(r, 0, 0)
	defer p.src.release()
	for {
		ev, err := p.next()
		if err != nil {
			return Info{}, err
		}
		switch ev.kind {
		case kindEnd:
			continue
		case kindDone:
			return p.src.info(), nil
		}
		e := Entry{Path: string(p.path), Type: Type(ev.kind), Executable: ev.exec, Size: ev.size, Target: ev.target}
		if err := visit(e); err != nil {
			return Info{}, err
		}
	}
}

// Verify reads an archive to its end, as strictly as Restore, and writes
// nothing. Its errors are those of List.
func Verify(r io.Reader) (Info, error) {
	p := newParser(r, 0, 0)
	defer p.src.release()
	for {
		ev, err := p.next()
		if err != nil {
			return Info{}, err
		}
		if ev.kind == kindDone {
			return p.src.info(), nil
		}
	}
}
