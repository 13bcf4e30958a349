package eriscbor

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"ersatz/eris"
)

// Major types (RFC 8949, section 3.1).
const (
	majorUint  = 0
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorTag   = 6
	majorOther = 7 // simple values, floats, and the "break" of what is indefinite
)

// Values of a head's low five bits.
const (
	infoByte       = 24 // one byte of argument follows; 25 to 27: two, four, eight
	infoIndefinite = 31 // no length is given; with majorOther, "break"
)

// Tags of the registry of IANA.
const (
	tagReadCap      = 276
	tagSelfDescribe = 55799
	tagBundle       = 1701996915 // "eris"
)

// readCapSize is the size of a read capability, in bytes.
const readCapSize = 66

// head is the beginning of a data item (RFC 8949, section 3).
type head struct {
	major      byte
	arg        uint64
	indefinite bool // "break", if major is majorOther
}

func (h head) isBreak() bool { return h.major == majorOther && h.indefinite }

func (h head) String() string {
	names := [...]string{"a number", "a negative number", "a byte string", "a text string", "an array", "a map", "a tag", "a simple value"}
	switch {
	case h.isBreak():
		return "a break"
	case h.indefinite:
		return names[h.major] + " of no definite length"
	case h.major == majorTag:
		return fmt.Sprintf("tag %d", h.arg)
	case h.major == majorBytes, h.major == majorText:
		return fmt.Sprintf("%s of %d bytes", names[h.major], h.arg)
	}
	return names[h.major]
}

// appendHead appends the shortest form of a head.
func appendHead(b []byte, major byte, arg uint64) []byte {
	major <<= 5
	switch {
	case arg < infoByte:
		return append(b, major|byte(arg))
	case arg < 1<<8:
		return append(b, major|infoByte, byte(arg))
	case arg < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|infoByte+1), uint16(arg))
	case arg < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|infoByte+2), uint32(arg))
	}
	return binary.BigEndian.AppendUint64(append(b, major|infoByte+3), arg)
}

// indefiniteHead is the head of an array or a map that a break ends.
func indefiniteHead(major byte) byte { return major<<5 | infoIndefinite }

const breakByte = majorOther<<5 | infoIndefinite

// appendReadCap appends a tagged read capability.
func appendReadCap(b []byte, c eris.ReadCap) []byte {
	b = appendHead(b, majorTag, tagReadCap)
	b = appendHead(b, majorBytes, readCapSize)
	return append(b, c.Bytes()...)
}

// decoder reads data items and counts bytes.
type decoder struct {
	r    *bufio.Reader
	off  int64  // of what is read next
	what string // "bundle" or "link file", for errors
}

// malformed returns an error that matches eris.ErrCorrupt and says where.
func (d *decoder) malformed(format string, args ...any) error {
	return fmt.Errorf("%s, byte %d: %w: %s", d.what, d.off, eris.ErrCorrupt, fmt.Sprintf(format, args...))
}

// broken makes an error of one of the reader. An end within an item is
// corruption.
func (d *decoder) broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return d.malformed("it is cut short")
	}
	return fmt.Errorf("%s, byte %d: %w", d.what, d.off, err)
}

func (d *decoder) full(b []byte) error {
	n, err := io.ReadFull(d.r, b)
	d.off += int64(n)
	if err != nil {
		return d.broken(err)
	}
	return nil
}

// head reads a head. Longer forms than needed are taken, as the RFC wants.
func (d *decoder) head() (head, error) {
	var b [8]byte
	if err := d.full(b[:1]); err != nil {
		return head{}, err
	}
	h := head{major: b[0] >> 5}
	switch info := b[0] & 31; {
	case info < infoByte:
		h.arg = uint64(info)
	case info <= infoByte+3:
		n := 1 << (info - infoByte)
		if err := d.full(b[8-n:]); err != nil {
			return head{}, err
		}
		clear(b[:8-n])
		h.arg = binary.BigEndian.Uint64(b[:])
		if h.major == majorOther && n == 1 && h.arg < 32 {
			return head{}, d.malformed("simple value %d in two bytes", h.arg)
		}
	case info == infoIndefinite && slices.Contains([]byte{majorBytes, majorText, majorArray, majorMap, majorOther}, h.major):
		h.indefinite = true
	default:
		return head{}, d.malformed("no head of a data item: %#x", b[0])
	}
	return h, nil
}

// want reads a head that can be nothing else.
func (d *decoder) want(major byte, arg uint64, name string) error {
	h, err := d.head()
	if err != nil {
		return err
	}
	if h.major != major || h.indefinite || h.arg != arg {
		return d.malformed("%v instead of %s", h, name)
	}
	return nil
}

// readCap reads a tagged read capability whose tag's head is h.
func (d *decoder) readCap(h head) (eris.ReadCap, error) {
	if h.major != majorTag || h.arg != tagReadCap {
		return eris.ReadCap{}, d.malformed("%v instead of a read capability", h)
	}
	if err := d.want(majorBytes, readCapSize, "66 bytes"); err != nil {
		return eris.ReadCap{}, err
	}
	var b [readCapSize]byte
	if err := d.full(b[:]); err != nil {
		return eris.ReadCap{}, err
	}
	c, err := eris.ParseReadCap(b[:])
	if err != nil {
		return c, d.malformed("%v", err)
	}
	return c, nil
}

// end makes sure that nothing follows.
func (d *decoder) end() error {
	_, err := d.r.ReadByte()
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return d.broken(err)
	}
	return d.malformed("something follows")
}

// series counts the elements of an array or a map.
type series struct {
	left       uint64
	indefinite bool
}

// more reports whether there is another element, and returns its head.
func (s *series) more(d *decoder) (head, bool, error) {
	if !s.indefinite && s.left == 0 {
		return head{}, false, nil
	}
	h, err := d.head()
	if err != nil || s.indefinite && h.isBreak() {
		return head{}, false, err
	}
	s.left--
	return h, true, nil
}
