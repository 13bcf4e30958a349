package eriscbor

import (
	"bufio"
	"bytes"
	"io"
	"unicode/utf8"

	"ersatz/eris"
)

// LinkType is the media type of link files, and LinkSuffix what their names end
// in.
const (
	LinkType   = "application/x-eris-link+cbor"
	LinkSuffix = ".eris"
)

// MaxLink bounds a link file, in bytes.
const MaxLink = 64 << 10

// maxNesting bounds how deep attributes are nested.
const maxNesting = 16

// Link is what a link file says of a content. Nothing of it but what the read
// capability itself proves is verified.
type Link struct {
	Cap  eris.ReadCap
	Size uint64 // bytes of the content
	Type string // media type
	// Attributes is a map, as CBOR. Default: an empty one. What is in it is not
	// looked at, but that it is well-formed.
	Attributes []byte
}

// emptyMap is the CBOR of no attributes.
var emptyMap = []byte{majorMap << 5}

// Bytes returns the link file. Attributes that are not one well-formed map are
// an error.
func (l Link) Bytes() ([]byte, error) {
	attributes := l.Attributes
	if len(attributes) == 0 {
		attributes = emptyMap
	}
	b := appendHead(nil, majorTag, tagSelfDescribe)
	b = appendHead(b, majorArray, 4)
	b = appendReadCap(b, l.Cap)
	b = appendHead(b, majorUint, l.Size)
	b = appendHead(b, majorText, uint64(len(l.Type)))
	b = append(b, l.Type...)
	b = append(b, attributes...)
	if _, err := ParseLink(b); err != nil {
		return nil, err
	}
	return b, nil
}

// ParseLink reads a link file of at most MaxLink bytes. The error matches
// eris.ErrCorrupt.
func ParseLink(b []byte) (Link, error) {
	d := &decoder{r: bufio.NewReader(bytes.NewReader(b)), what: "link file"}
	l, err := d.link(b)
	if err != nil {
		return Link{}, err
	}
	return l, nil
}

func (d *decoder) link(b []byte) (l Link, err error) {
	if len(b) > MaxLink {
		return l, d.malformed("more than %d bytes", MaxLink)
	}
	if err := d.want(majorTag, tagSelfDescribe, "tag 55799"); err != nil {
		return l, err
	}
	if err := d.want(majorArray, 4, "an array of 4"); err != nil {
		return l, err
	}
	h, err := d.head()
	if err != nil {
		return l, err
	}
	if l.Cap, err = d.readCap(h); err != nil {
		return l, err
	}
	if h, err = d.head(); err != nil {
		return l, err
	}
	if h.major != majorUint {
		return l, d.malformed("%v instead of the size", h)
	}
	l.Size = h.arg
	if h, err = d.head(); err != nil {
		return l, err
	}
	if h.major != majorText || h.indefinite {
		return l, d.malformed("%v instead of the media type", h)
	}
	if l.Type, err = d.text(h.arg); err != nil {
		return l, err
	}
	start := d.off
	if h, err = d.head(); err != nil {
		return l, err
	}
	if h.major != majorMap {
		return l, d.malformed("%v instead of attributes", h)
	}
	if err := d.skip(h, maxNesting); err != nil {
		return l, err
	}
	if attributes := b[start:d.off]; !bytes.Equal(attributes, emptyMap) {
		l.Attributes = bytes.Clone(attributes)
	}
	return l, d.end()
}

// text reads a text string of n bytes.
func (d *decoder) text(n uint64) (string, error) {
	if n > MaxLink {
		return "", d.malformed("text of %d bytes", n)
	}
	b := make([]byte, n)
	if err := d.full(b); err != nil {
		return "", err
	}
	if !utf8.Valid(b) {
		return "", d.malformed("text that is not UTF-8")
	}
	return string(b), nil
}

// skip reads what follows a head, and makes sure that it is well-formed (RFC
// 8949, appendix C).
func (d *decoder) skip(h head, nesting int) error {
	if nesting == 0 {
		return d.malformed("nested too deep")
	}
	switch {
	case h.isBreak():
		return d.malformed("a break out of place")
	case h.major == majorText && !h.indefinite:
		_, err := d.text(h.arg)
		return err
	case h.major == majorBytes && !h.indefinite:
		n, err := io.CopyN(io.Discard, d.r, int64(min(h.arg, MaxLink)))
		d.off += n
		if err == nil && h.arg > MaxLink {
			err = io.EOF
		}
		if err != nil {
			return d.broken(err)
		}
		return nil
	case h.major == majorTag:
		return d.skipItem(nesting - 1)
	case h.major == majorBytes, h.major == majorText, h.major == majorArray, h.major == majorMap:
		return d.skipSeries(h, nesting-1)
	}
	return nil // numbers and simple values are their heads
}

func (d *decoder) skipItem(nesting int) error {
	h, err := d.head()
	if err != nil {
		return err
	}
	return d.skip(h, nesting)
}

// skipSeries reads the elements of a container, or the pieces of a string.
func (d *decoder) skipSeries(h head, nesting int) error {
	s := series{h.arg, h.indefinite}
	for {
		e, ok, err := s.more(d)
		if err != nil || !ok {
			return err
		}
		if (h.major == majorBytes || h.major == majorText) && (e.major != h.major || e.indefinite) {
			return d.malformed("%v within %v", e, h)
		}
		if err := d.skip(e, nesting); err != nil {
			return err
		}
		if h.major == majorMap {
			if err := d.skipItem(nesting); err != nil {
				return err
			}
		}
	}
}
