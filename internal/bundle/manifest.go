package bundle

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/narinfo"
)

// magic starts a manifest, which is what the first read capability of a bundle
// names. docs/bundles.md describes the format.
const magic = "ersatz-bundle-1\n\n"

// MaxItems bounds the items of a bundle.
const MaxItems = 1 << 16

// maxManifest bounds a manifest, in bytes: real narinfos have some thousands.
const maxManifest = 1 << 30

// maxLine bounds a line of a manifest that is none of a narinfo's, in bytes.
const maxLine = 256

// ErrNoManifest means that a bundle has blocks, but does not say of which store
// items they are.
var ErrNoManifest = errors.New("not a bundle of store items")

// entry is what a manifest says of one item.
type entry struct {
	content eris.ReadCap    // the nar, as compressed
	method  compress.Method // how it is compressed
	text    []byte          // of its narinfo, which names no nars
}

// append prints the entry.
func (e entry) append(b []byte) []byte {
	b = fmt.Appendf(b, "URN: %s\nFormat: %s\nNarinfo: %d\n\n", e.content.URN(), e.method.Format(), len(e.text))
	return append(b, e.text...)
}

// manifestReader reads a manifest, entry by entry.
type manifestReader struct {
	r     *bufio.Reader
	count int // of entries
}

// readManifest begins to read a manifest. The error matches ErrNoManifest if it
// is something else.
func readManifest(r io.Reader) (*manifestReader, error) {
	m := &manifestReader{r: bufio.NewReader(r)}
	start := make([]byte, len(magic))
	_, err := io.ReadFull(m.r, start)
	short := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	switch {
	case short, err == nil && string(start) != magic:
		return nil, fmt.Errorf("%w: its first content is no manifest", ErrNoManifest)
	case err != nil:
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

func (m *manifestReader) malformed(format string, args ...any) error {
	return fmt.Errorf("manifest, entry %d: %w: %s", m.count, eris.ErrCorrupt, fmt.Sprintf(format, args...))
}

// next reads what append has printed, and nothing else. It returns io.EOF after
// the last entry; the entries are not looked into.
func (m *manifestReader) next() (entry, error) {
	if _, err := m.r.Peek(1); errors.Is(err, io.EOF) {
		return entry{}, io.EOF
	}
	m.count++
	if m.count > MaxItems {
		return entry{}, m.malformed("more than %d", MaxItems)
	}
	e, err := m.entry()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = m.malformed("it is cut short")
	}
	if err != nil && !errors.Is(err, eris.ErrCorrupt) {
		err = fmt.Errorf("manifest, entry %d: %w", m.count, err)
	}
	return e, err
}

func (m *manifestReader) entry() (e entry, err error) {
	urn, err := m.field("URN")
	if err != nil {
		return e, err
	}
	if e.content, err = eris.ParseURN(urn); err != nil {
		return e, m.malformed("%v", err)
	}
	format, err := m.field("Format")
	if err != nil {
		return e, err
	}
	if e.method, err = compress.ParseFormat(format); err != nil {
		return e, m.malformed("%v", err)
	}
	if e.method.Level != 0 {
		return e, m.malformed("format %q has a level", format)
	}
	length, err := m.field("Narinfo")
	if err != nil {
		return e, err
	}
	n, err := strconv.ParseUint(length, 10, 32)
	if err != nil || n > narinfo.MaxSize || strconv.FormatUint(n, 10) != length {
		return e, m.malformed("narinfo of %q bytes", length)
	}
	if line, err := m.line(); err != nil || line != "" {
		return e, errors.Join(err, m.malformed("no empty line before the narinfo"))
	}
	e.text = make([]byte, n)
	_, err = io.ReadFull(m.r, e.text)
	return e, err
}

// line reads a line, without its end.
func (m *manifestReader) line() (string, error) {
	line, err := m.r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull), len(line) > maxLine:
		return "", m.malformed("a line of more than %d bytes", maxLine)
	case err != nil:
		return "", err
	}
	return string(line[:len(line)-1]), nil
}

func (m *manifestReader) field(name string) (string, error) {
	line, err := m.line()
	if err != nil {
		return "", err
	}
	value, ok := strings.CutPrefix(line, name+": ")
	if !ok {
		return "", m.malformed("%.80q instead of the field %s", line, name)
	}
	return value, nil
}
