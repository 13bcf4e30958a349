package compress

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math/bits"

	"github.com/ulikunitz/xz/lzma"
)

// The lzip format, version 1 (lzip manual, "File format"): members of a header
// (magic, version, coded dictionary size), an LZMA stream with lc=3, lp=0,
// pb=2 that ends in a marker, and a trailer (CRC-32, data size, member size).
// LZMA itself is the library's; its own 13-byte header is made up and cut off.
const (
	lzipMagic   = "LZIP\x01"
	lzipHeader  = len(lzipMagic) + 1
	lzipTrailer = 20
	minDict     = 4 << 10
)

var lzmaProperties = lzma.Properties{LC: 3, LP: 0, PB: 2}

// lzmaHead returns the header of a stream of unknown size.
func lzmaHead(dict uint32) []byte {
	h := make([]byte, lzma.HeaderLen)
	h[0] = lzmaProperties.Code()
	binary.LittleEndian.PutUint32(h[1:], dict)
	copy(h[5:], bytes.Repeat([]byte{0xff}, 8))
	return h
}

// lzipReader reads one member after another.
type lzipReader struct {
	in     *bufio.Reader
	count  *countReader // over in
	lzma   *lzma.Reader // nil between members
	crc    hash.Hash32
	size   uint64
	dicts  dictBudget
	begun  bool
	sticky error
}

// countReader is a ByteReader, so that the LZMA decoder reads no further than
// it needs.
type countReader struct {
	in *bufio.Reader
	n  uint64
}

func (c *countReader) ReadByte() (byte, error) {
	b, err := c.in.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.n += uint64(n)
	return n, err
}

func newLzipReader(r io.Reader) *lzipReader {
	in := bufio.NewReaderSize(r, 64<<10)
	return &lzipReader{in: in, crc: crc32.NewIEEE()}
}

func (z *lzipReader) Read(p []byte) (int, error) {
	for z.sticky == nil {
		if z.lzma == nil {
			if z.sticky = z.header(); z.sticky != nil {
				break
			}
		}
		n, err := z.lzma.Read(p)
		z.crc.Write(p[:n])
		z.size += uint64(n)
		z.dicts.content += uint64(n)
		switch {
		case errors.Is(err, io.EOF):
			z.sticky = z.trailer()
		case err != nil:
			z.sticky = fmt.Errorf("lzip: %w", err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, z.sticky
}

// header begins a member; io.EOF means that there is none.
func (z *lzipReader) header() error {
	var h [lzipHeader]byte
	if _, err := io.ReadFull(z.in, h[:]); err != nil {
		if errors.Is(err, io.EOF) && z.begun {
			return io.EOF
		}
		return fmt.Errorf("lzip: header: %w", unexpected(err))
	}
	if string(h[:len(lzipMagic)]) != lzipMagic {
		return fmt.Errorf("lzip: no version 1 member begins with %q", h[:len(lzipMagic)])
	}
	code := h[len(lzipMagic)]
	dict := uint32(1) << (code & 0x1f)
	dict -= dict / 16 * uint32(code>>5)
	if dict < minDict || dict > maxWindow {
		return fmt.Errorf("lzip: dictionary of %d bytes, limits %d and %d", dict, minDict, maxWindow)
	}
	if err := z.dicts.spend(uint64(dict)); err != nil {
		return fmt.Errorf("lzip: %w", err)
	}
	z.count = &countReader{in: z.in}
	head := bytes.NewReader(lzmaHead(dict))
	d, err := lzma.ReaderConfig{DictCap: int(dict)}.NewReader(&joined{head, z.count})
	if err != nil {
		return fmt.Errorf("lzip: %w", unexpected(err))
	}
	z.lzma, z.size, z.begun = d, 0, true
	z.crc.Reset()
	return nil
}

// joined is io.MultiReader for a ByteReader.
type joined struct {
	head *bytes.Reader
	rest *countReader
}

func (j *joined) ReadByte() (byte, error) {
	if j.head.Len() > 0 {
		return j.head.ReadByte()
	}
	return j.rest.ReadByte()
}

func (j *joined) Read(p []byte) (int, error) {
	if j.head.Len() > 0 {
		return j.head.Read(p)
	}
	return j.rest.Read(p)
}

func (z *lzipReader) trailer() error {
	z.lzma = nil
	var t [lzipTrailer]byte
	if _, err := io.ReadFull(z.count, t[:]); err != nil {
		return fmt.Errorf("lzip: trailer: %w", unexpected(err))
	}
	switch {
	case binary.LittleEndian.Uint32(t[:]) != z.crc.Sum32():
		return errors.New("lzip: wrong CRC")
	case binary.LittleEndian.Uint64(t[4:]) != z.size:
		return errors.New("lzip: wrong data size")
	case binary.LittleEndian.Uint64(t[12:]) != z.count.n+uint64(lzipHeader):
		return errors.New("lzip: wrong member size")
	}
	return nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// lzipWriter writes one member.
type lzipWriter struct {
	out  *countWriter
	lzma *lzma.Writer
	crc  hash.Hash32
	size uint64
}

type countWriter struct {
	w    io.Writer
	n    uint64
	skip int // bytes that are not passed on
}

func (c *countWriter) Write(p []byte) (int, error) {
	cut := min(c.skip, len(p))
	c.skip -= cut
	n, err := c.w.Write(p[cut:])
	c.n += uint64(n)
	return cut + n, err
}

// dictSizes are those of lzip's levels.
var dictSizes = [...]uint32{1: 1 << 20, 3 << 19, 2 << 20, 3 << 20, 4 << 20, 8 << 20, 16 << 20, 24 << 20, 32 << 20}

func newLzipWriter(w io.Writer, level int) (io.WriteCloser, error) {
	dict := dictSizes[level]
	out := &countWriter{w: w}
	if _, err := out.Write(append([]byte(lzipMagic), dictCode(dict))); err != nil {
		return nil, err
	}
	out.skip = lzma.HeaderLen
	// The library's other matcher, a binary tree, degenerates on some texts.
	config := lzma.WriterConfig{
		Properties: &lzmaProperties, DictCap: int(dict), Matcher: lzma.HashTable4, EOSMarker: true,
	}
	e, err := config.NewWriter(out)
	if err != nil {
		return nil, err
	}
	return &lzipWriter{out: out, lzma: e, crc: crc32.NewIEEE()}, nil
}

// dictCode codes a dictionary size: a power of two less some sixteenths of it.
func dictCode(size uint32) byte {
	base := bits.Len32(size - 1)
	sixteenths := (uint32(1)<<base - size) / (uint32(1) << base / 16)
	return byte(base) | byte(sixteenths<<5)
}

func (z *lzipWriter) Write(p []byte) (int, error) {
	n, err := z.lzma.Write(p)
	z.crc.Write(p[:n])
	z.size += uint64(n)
	return n, err
}

func (z *lzipWriter) Close() error {
	if err := z.lzma.Close(); err != nil {
		return err
	}
	var t [lzipTrailer]byte
	binary.LittleEndian.PutUint32(t[:], z.crc.Sum32())
	binary.LittleEndian.PutUint64(t[4:], z.size)
	binary.LittleEndian.PutUint64(t[12:], z.out.n+lzipTrailer)
	_, err := z.out.Write(t[:])
	return err
}
