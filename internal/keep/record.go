package keep

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// A record is what stands in narinfo/HASH and in parts/ID/about: recordMagic, a
// "Field: value" line per field in the order below, an empty line, and the text
// of the narinfo. There is one spelling of each record.
const recordMagic = "ersatz-keep-1\n"

// maxRecord bounds a record in bytes, maxValue one value.
const (
	maxValue  = 4 << 10
	maxRecord = narinfo.MaxSize + 64<<10
)

var errRecord = errors.New("malformed record")

// About says what a part is a part of: of Item, all but Size, Asked and Used
// counts. For a nar there is what its server says of the file.
type About struct {
	Item     Item
	ETag     string // "" if there is none
	FileSize int64  // in bytes; 0 if it is not known
}

// fields are the names of a record's fields.
func fields() []string {
	return []string{"StorePath", "NarHash", "NarSize", "Server", "Compression", "FileSize", "ETag", "ERIS", "ERISFormat", "Signed"}
}

// encode returns a record.
func (a About) encode() ([]byte, error) {
	urn := ""
	if a.Item.ReadCap != (eris.ReadCap{}) {
		urn = a.Item.ReadCap.URN()
	}
	signed := "no"
	if a.Item.Signed {
		signed = "yes"
	}
	values := []string{
		a.Item.Path.String(), narinfo.FormatHash(a.Item.NarHash), strconv.FormatInt(a.Item.NarSize, 10), a.Item.Server,
		a.Item.Method, strconv.FormatInt(a.FileSize, 10), a.ETag, urn, a.Item.Format, signed,
	}
	b := []byte(recordMagic)
	for i, name := range fields() {
		b = append(b, name+": "+values[i]+"\n"...)
	}
	b = append(append(b, '\n'), a.Item.Narinfo...)
	if _, err := parseRecord(b); err != nil {
		return nil, fmt.Errorf("keep: %s: %w", a.Item.Path, err)
	}
	return b, nil
}

// parseRecord reads what encode prints, and nothing else.
func parseRecord(b []byte) (a About, err error) {
	rest, ok := bytes.CutPrefix(b, []byte(recordMagic))
	if !ok {
		return a, fmt.Errorf("%w: it does not begin as one", errRecord)
	}
	values := make([]string, 0, len(fields()))
	for _, name := range fields() {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		value, named := bytes.CutPrefix(line, []byte(name+": "))
		if !ok || !named || len(value) > maxValue || bytes.IndexByte(value, '\r') >= 0 {
			return a, fmt.Errorf("%w: %s", errRecord, name)
		}
		values, rest = append(values, string(value)), after
	}
	text, ok := bytes.CutPrefix(rest, []byte("\n"))
	if !ok || len(text) > narinfo.MaxSize {
		return a, fmt.Errorf("%w: narinfo", errRecord)
	}
	if err := a.set(values); err != nil {
		return About{}, err
	}
	a.Item.Narinfo = bytes.Clone(text)
	return a, nil
}

// set sets the fields.
func (a *About) set(v []string) (err error) {
	fault := func(name string, err error) error { return fmt.Errorf("%w: %s: %w", errRecord, name, err) }
	i := &a.Item
	if i.Path, err = storepath.Parse(v[0]); err != nil {
		return fault("StorePath", err)
	}
	if i.NarHash, err = narinfo.ParseHash(v[1]); err != nil {
		return fault("NarHash", err)
	}
	if narinfo.FormatHash(i.NarHash) != v[1] || i.Path.String() != v[0] {
		return fmt.Errorf("%w: spelling of StorePath or NarHash", errRecord)
	}
	if i.NarSize, err = parseSize(v[2]); err != nil {
		return fault("NarSize", err)
	}
	if i.Server, i.Method, a.ETag, i.Format = v[3], v[4], v[6], v[8]; !compress.Readable(i.Method) {
		return fmt.Errorf("%w: compression %q", errRecord, i.Method)
	}
	if a.FileSize, err = parseSize(v[5]); err != nil {
		return fault("FileSize", err)
	}
	switch {
	case v[7] == "":
	case strings.HasPrefix(v[7], "urn:erisx2:"):
		i.ReadCap, err = eris.ParseLegacyURN(v[7])
	default:
		i.ReadCap, err = eris.ParseURN(v[7])
	}
	if err == nil && v[7] != "" && i.ReadCap.URN() != v[7] {
		err = errors.New("spelling")
	}
	if err != nil {
		return fault("ERIS", err)
	}
	if i.Signed = v[9] == "yes"; !i.Signed && v[9] != "no" {
		return fmt.Errorf("%w: Signed", errRecord)
	}
	return nil
}

// parseSize reads a number of bytes in its one spelling.
func parseSize(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && (n < 0 || strconv.FormatInt(n, 10) != s) {
		err = fmt.Errorf("%q is no size", s)
	}
	return n, err
}

// plain reports whether c is a capability whose blocks can be made again from
// the content: there is one, and it is not of ERIS 0.3.0.
func plain(c eris.ReadCap) bool {
	again, err := eris.ParseReadCap(c.Bytes())
	return err == nil && again == c && c != (eris.ReadCap{})
}
