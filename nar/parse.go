package nar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"ersatz/internal/wire"
)

// maxTag bounds the strings of the format's own grammar, the longest of which
// is the magic, in bytes.
const maxTag = len(magic)

const magic = "nix-archive-1"

// event is a step through an archive: an entry begins or a directory ends.
type event struct {
	kind   kind
	name   string // "" for the root
	exec   bool   // regular: executable
	size   int64  // regular: bytes of content, which content returns
	target string // symlink
}

type kind uint8

const (
	kindRegular kind = iota
	kindSymlink
	kindDirectory
	kindEnd  // of the directory that began last and has not ended
	kindDone // the archive has ended, and the stream with it
)

// parser reads an archive step by step. It is the one reader of the format:
// Restore, Verify and List differ in what they do with its events.
type parser struct {
	src      *source
	maxDepth int

	begun bool
	left  int64   // content bytes of the current file still to come
	pad   int     // its padding, once left is 0
	open  bool    // the current file's content has not been ended
	dirs  []level // the directories that enclose the next entry
	path  []byte  // of the current entry
	at    int64   // offset of the token read last
}

// level is a directory being read.
type level struct {
	pathLen int    // of its own path in parser.path
	last    string // the name before, "" at the first
}

func newParser(r io.Reader, maxSize int64, maxDepth int) *parser {
	if maxDepth <= 0 || maxDepth > MaxDepth {
		maxDepth = MaxDepth
	}
	return &parser{src: newSource(r, maxSize), maxDepth: maxDepth}
}

// next returns the next event; the last one is of kindDone. It skips content
// that was not asked for.
func (p *parser) next() (event, error) {
	if !p.begun {
		p.begun = true
		if err := p.expect(magic); err != nil {
			return event{}, err
		}
		return p.node("")
	}
	for p.open {
		if _, err := p.content(); err != nil {
			return event{}, err
		}
	}
	if len(p.dirs) == 0 {
		return event{kind: kindDone}, p.end()
	}
	dir := &p.dirs[len(p.dirs)-1]
	p.path = p.path[:dir.pathLen]
	tag, err := p.token(maxTag)
	if err != nil {
		return event{}, err
	}
	switch string(tag) {
	case "entry":
		name, err := p.entry(dir)
		if err != nil {
			return event{}, err
		}
		return p.node(name)
	case ")":
		p.dirs = p.dirs[:len(p.dirs)-1]
		return event{kind: kindEnd}, p.closeEntry()
	}
	return event{}, p.errorf(`want "entry" or ")", not %q`, tag)
}

// end checks that nothing follows the archive.
func (p *parser) end() error {
	p.at = p.src.offset()
	eof, err := p.src.atEOF()
	if err != nil {
		return p.wrap(err)
	}
	if !eof {
		return p.errorf("bytes after the archive's end")
	}
	return nil
}

// entry reads "(" "name" NAME "node" and makes path the entry's.
func (p *parser) entry(dir *level) (string, error) {
	if err := p.expect("("); err != nil {
		return "", err
	}
	if err := p.expect("name"); err != nil {
		return "", err
	}
	tok, err := p.token(MaxName)
	if err != nil {
		return "", err
	}
	name := string(tok)
	if err := validName(name); err != nil {
		return "", p.errorf("%v", err)
	}
	if name == dir.last {
		return "", p.errorf("duplicate name %q", name)
	}
	if name < dir.last {
		return "", p.errorf("name %q after %q", name, dir.last)
	}
	dir.last = name
	if len(p.path) > 0 {
		p.path = append(p.path, '/')
	}
	p.path = append(p.path, name...)
	return name, p.expect("node")
}

// node reads a node up to where a file's content or a directory's entries
// begin.
func (p *parser) node(name string) (event, error) {
	if err := p.expect("("); err != nil {
		return event{}, err
	}
	if err := p.expect("type"); err != nil {
		return event{}, err
	}
	tag, err := p.token(maxTag)
	if err != nil {
		return event{}, err
	}
	switch string(tag) {
	case "regular":
		return p.regular(name)
	case "symlink":
		return p.symlink(name)
	case "directory":
		if len(p.dirs) == p.maxDepth {
			return event{}, p.errorf("nested deeper than %d directories", p.maxDepth)
		}
		p.dirs = append(p.dirs, level{pathLen: len(p.path)})
		return event{kind: kindDirectory, name: name}, nil
	}
	return event{}, p.errorf("unknown type %q", tag)
}

func (p *parser) regular(name string) (event, error) {
	ev := event{kind: kindRegular, name: name}
	tag, err := p.token(maxTag)
	if err != nil {
		return event{}, err
	}
	if string(tag) == "executable" {
		ev.exec = true
		if err := p.expect(""); err != nil {
			return event{}, err
		}
		if tag, err = p.token(maxTag); err != nil {
			return event{}, err
		}
	}
	// An empty file has contents too: Guix and Nix always write them.
	if string(tag) != "contents" {
		return event{}, p.errorf(`want "contents", not %q`, tag)
	}
	p.at = p.src.offset()
	b, err := p.src.peek(8)
	if err != nil {
		return event{}, p.wrap(err)
	}
	n := binary.LittleEndian.Uint64(b)
	if n > math.MaxInt64-8 {
		return event{}, p.errorf("content of %d bytes", n)
	}
	p.src.skip(8)
	ev.size, p.left, p.pad, p.open = int64(n), int64(n), wire.Padding(n), true
	if whole := int64(n) + int64(p.pad); whole > p.src.max-p.src.offset() {
		return event{}, p.wrapf(ErrTooLarge, "content of %d bytes goes beyond the archive's bound of %d bytes", n, p.src.max)
	}
	return ev, nil
}

// content returns the next piece of the current file's content, and nothing
// once all has been returned. A file of at most half of bufSize comes in one
// piece. The bytes are valid until the next call of a method.
func (p *parser) content() ([]byte, error) {
	if !p.open {
		return nil, nil
	}
	if p.left == 0 {
		return nil, p.closeFile()
	}
	b, err := p.src.peek(int(min(p.left, bufSize/2)))
	if err != nil {
		p.at = p.src.n
		return nil, p.wrap(err)
	}
	b = b[:min(p.left, int64(len(b)))]
	p.src.skip(len(b))
	p.left -= int64(len(b))
	return b, nil
}

func (p *parser) closeFile() error {
	p.open = false
	p.at = p.src.offset()
	b, err := p.src.peek(p.pad)
	if err != nil {
		return p.wrap(err)
	}
	if !zero(b[:p.pad]) {
		return p.errorf("non-zero padding")
	}
	p.src.skip(p.pad)
	if err := p.expect(")"); err != nil {
		return err
	}
	return p.closeEntry()
}

func (p *parser) symlink(name string) (event, error) {
	if err := p.expect("target"); err != nil {
		return event{}, err
	}
	tok, err := p.token(MaxTarget)
	if err != nil {
		return event{}, err
	}
	if len(tok) == 0 {
		return event{}, p.errorf("empty link target")
	}
	target := string(tok)
	if strings.IndexByte(target, 0) >= 0 {
		return event{}, p.errorf("link target %q contains NUL", target)
	}
	if err := p.expect(")"); err != nil {
		return event{}, err
	}
	return event{kind: kindSymlink, name: name, target: target}, p.closeEntry()
}

// closeEntry reads the parenthesis after a node that is not the root.
func (p *parser) closeEntry() error {
	if len(p.dirs) == 0 {
		return nil
	}
	return p.expect(")")
}

func (p *parser) expect(want string) error {
	got, err := p.token(maxTag)
	if err != nil {
		return err
	}
	if string(got) != want {
		return p.errorf("want %q, not %q", want, got)
	}
	return nil
}

// token reads a string of at most max bytes. It is valid until the next call.
func (p *parser) token(max int) ([]byte, error) {
	p.at = p.src.offset()
	b, err := p.src.peek(8)
	if err != nil {
		return nil, p.wrap(err)
	}
	n := binary.LittleEndian.Uint64(b)
	if n > uint64(max) {
		return nil, p.errorf("string of %d bytes, limit %d", n, max)
	}
	end := 8 + int(n)
	padded := end + wire.Padding(n)
	if b, err = p.src.peek(padded); err != nil {
		return nil, p.wrap(err)
	}
	if !zero(b[end:padded]) {
		return nil, p.errorf("non-zero padding after %q", b[8:end])
	}
	p.src.skip(padded)
	return b[8:end], nil
}

func (p *parser) errorf(format string, args ...any) error {
	return p.wrapf(nil, format, args...)
}

func (p *parser) wrapf(err error, format string, args ...any) error {
	return &SyntaxError{Offset: p.at, Path: string(p.path), Msg: fmt.Sprintf(format, args...), Err: err}
}

// wrap names the place of an error of src.
func (p *parser) wrap(err error) error {
	switch {
	case errors.Is(err, ErrTooLarge):
		return p.wrapf(err, "archive goes beyond its bound of %d bytes", p.src.max)
	case errors.Is(err, errEnd):
		return p.wrapf(io.ErrUnexpectedEOF, "archive ends too early")
	}
	return fmt.Errorf("nar: reading byte %d, in %q: %w", p.src.n, p.path, err)
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
