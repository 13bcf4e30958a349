package compress

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// The .xz file format, version 1.2.1: streams of a header, blocks, an index
// and a footer, with zeros between them. Of the filters only LZMA2 is read,
// which is what every encoder uses unless told otherwise.
//
// LZMA2 itself is the library's. Its reader of the format around it takes the
// caller's dictionary size for the least and allocates what a stream asks for,
// up to 4 GiB.
const (
	xzMagic      = "\xfd7zXZ\x00"
	xzFooter     = "YZ"
	xzHeaderSize = 12 // of a stream, and of its footer
	xzLZMA2      = 0x21
)

// xzReader reads one stream after another.
type xzReader struct {
	in     *countReader
	lzma   *lzma.Reader2 // nil between blocks
	begun  bool          // a stream has been read
	flags  [2]byte       // of the stream
	check  hash.Hash     // of the block's content; nil if the stream has none
	start  uint64        // where the block began
	block  xzBlock
	blocks xzSums // of the blocks that were read
	dicts  dictBudget
	sticky error
}

// xzBlock is what the index has of a block, in bytes.
type xzBlock struct{ unpadded, content uint64 }

// xzSums sums up records, so that the index can be compared without keeping
// it.
type xzSums struct {
	n    uint64
	hash hash.Hash
}

func (s *xzSums) add(b xzBlock) {
	s.n++
	var r [16]byte
	binary.LittleEndian.PutUint64(r[:], b.unpadded)
	binary.LittleEndian.PutUint64(r[8:], b.content)
	s.hash.Write(r[:])
}

func (s *xzSums) equal(t xzSums) bool {
	return s.n == t.n && bytes.Equal(s.hash.Sum(nil), t.hash.Sum(nil))
}

func newXZReader(r io.Reader) *xzReader {
	return &xzReader{in: &countReader{in: bufio.NewReaderSize(r, 64<<10)}}
}

func (z *xzReader) Read(p []byte) (int, error) {
	for z.sticky == nil {
		if z.lzma == nil {
			if z.sticky = z.next(); z.sticky != nil {
				break
			}
		}
		n, err := z.lzma.Read(p)
		z.block.content += uint64(n)
		z.dicts.content += uint64(n)
		if z.check != nil {
			z.check.Write(p[:n])
		}
		switch {
		case errors.Is(err, io.EOF):
			z.sticky = wrapXZ("block", z.endBlock())
		case err != nil:
			z.sticky = wrapXZ("block", err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, z.sticky
}

func wrapXZ(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("xz: %s: %w", what, unexpected(err))
}

// next reads up to the content of the next block; io.EOF means that there is
// none.
func (z *xzReader) next() error {
	for {
		if z.blocks.hash == nil {
			found, err := z.streamHeader()
			if err != nil {
				return wrapXZ("stream header", err)
			}
			if !found {
				return io.EOF
			}
		}
		z.start = z.in.n
		size, err := z.in.ReadByte()
		if err != nil {
			return wrapXZ("block header", err)
		}
		if size != 0 {
			return wrapXZ("block header", z.blockHeader(size))
		}
		if err := z.index(); err != nil {
			return wrapXZ("index", err)
		}
	}
}

// streamHeader reads a stream's header and the zeros before it. It reports
// whether there is one.
func (z *xzReader) streamHeader() (bool, error) {
	var h [xzHeaderSize]byte
	for {
		if _, err := io.ReadFull(z.in, h[:4]); err != nil {
			if errors.Is(err, io.EOF) && z.begun {
				return false, nil
			}
			return false, err
		}
		if !z.begun || h[0] != 0 {
			break
		}
		if [4]byte(h[:4]) != [4]byte{} {
			return false, errors.New("neither zeros nor a stream follow a stream")
		}
	}
	if _, err := io.ReadFull(z.in, h[4:]); err != nil {
		return false, unexpected(err)
	}
	flags := h[len(xzMagic):8]
	switch {
	case string(h[:len(xzMagic)]) != xzMagic:
		return false, fmt.Errorf("no stream begins with %q", h[:len(xzMagic)])
	case crc32.ChecksumIEEE(flags) != binary.LittleEndian.Uint32(h[8:]):
		return false, errors.New("wrong CRC")
	case flags[0] != 0:
		return false, fmt.Errorf("flags %x", flags)
	}
	switch flags[1] {
	case 0x00:
		z.check = nil
	case 0x01:
		z.check = crc32.NewIEEE()
	case 0x04:
		z.check = crc64.New(crc64.MakeTable(crc64.ECMA))
	case 0x0a:
		z.check = sha256.New()
	default:
		return false, fmt.Errorf("unknown check %#x", flags[1])
	}
	z.begun, z.flags, z.blocks = true, [2]byte(flags), xzSums{hash: sha256.New()}
	return true, nil
}

// blockHeader reads a block's header, whose first byte is code.
func (z *xzReader) blockHeader(code byte) error {
	h := make([]byte, (int(code)+1)*4)
	h[0] = code
	if _, err := io.ReadFull(z.in, h[1:]); err != nil {
		return unexpected(err)
	}
	end := len(h) - 4
	if crc32.ChecksumIEEE(h[:end]) != binary.LittleEndian.Uint32(h[end:]) {
		return errors.New("wrong CRC")
	}
	flags, r := h[1], bytes.NewReader(h[2:end])
	if flags&0x3f != 0 {
		return fmt.Errorf("flags %#x: only the LZMA2 filter is read", flags)
	}
	// Both sizes stand in the index too, where they are compared.
	for _, bit := range []byte{0x40, 0x80} {
		if flags&bit != 0 {
			if _, err := xzNumber(r); err != nil {
				return err
			}
		}
	}
	var filter [3]byte // number, size of its properties, dictionary size
	if _, err := io.ReadFull(r, filter[:]); err != nil || filter[0] != xzLZMA2 || filter[1] != 1 {
		return errors.New("only the LZMA2 filter is read")
	}
	if padding := h[end-r.Len() : end]; !bytes.Equal(padding, make([]byte, len(padding))) {
		return errors.New("non-zero padding")
	}
	dict, err := lzma.DecodeDictCap(filter[2])
	if err != nil {
		return err
	}
	if dict > maxXZWindow {
		return fmt.Errorf("dictionary of %d bytes, limit %d", dict, maxXZWindow)
	}
	if err := z.dicts.spend(uint64(dict)); err != nil {
		return err
	}
	z.block = xzBlock{}
	if z.check != nil {
		z.check.Reset()
	}
	z.lzma, err = lzma.Reader2Config{DictCap: int(max(dict, lzma.MinDictCap))}.NewReader2(z.in)
	return err
}

// endBlock reads what follows a block's content: padding and check.
func (z *xzReader) endBlock() error {
	z.lzma = nil
	size := z.in.n - z.start
	if err := z.padding(size); err != nil {
		return err
	}
	z.block.unpadded = size
	if z.check != nil {
		want := z.check.Sum(nil)
		if z.check.Size() < sha256.Size { // CRCs are little-endian here
			for i, j := 0, len(want)-1; i < j; i, j = i+1, j-1 {
				want[i], want[j] = want[j], want[i]
			}
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(z.in, got); err != nil {
			return unexpected(err)
		}
		if !bytes.Equal(got, want) {
			return errors.New("wrong check of the content")
		}
		z.block.unpadded += uint64(len(got))
	}
	z.blocks.add(z.block)
	return nil
}

// padding reads zeros up to a multiple of 4 bytes.
func (z *xzReader) padding(size uint64) error {
	var zeros [4]byte
	pad := zeros[:-size&3]
	if _, err := io.ReadFull(z.in, pad); err != nil {
		return unexpected(err)
	}
	for _, c := range pad {
		if c != 0 {
			return errors.New("non-zero padding")
		}
	}
	return nil
}

// index reads the index, whose first byte has been read, and the footer, and
// compares them with what was read before.
func (z *xzReader) index() error {
	crc := crc32.NewIEEE()
	crc.Write([]byte{0})
	in := &hashedBytes{z.in, crc}
	n, err := xzNumber(in)
	if err != nil {
		return err
	}
	if n != z.blocks.n {
		return fmt.Errorf("%d blocks, the stream has %d", n, z.blocks.n)
	}
	listed := xzSums{hash: sha256.New()}
	for range n {
		var b xzBlock
		if b.unpadded, err = xzNumber(in); err != nil {
			return err
		}
		if b.content, err = xzNumber(in); err != nil {
			return err
		}
		listed.add(b)
	}
	if !z.blocks.equal(listed) {
		return errors.New("sizes differ from those of the blocks")
	}
	for size := z.in.n - z.start; size&3 != 0; size++ {
		if c, err := in.ReadByte(); err != nil || c != 0 {
			return errors.Join(errors.New("padding"), err)
		}
	}
	var f [4 + xzHeaderSize]byte // CRC of the index, footer
	size := z.in.n - z.start + 4
	if _, err := io.ReadFull(z.in, f[:]); err != nil {
		return unexpected(err)
	}
	switch {
	case binary.LittleEndian.Uint32(f[:]) != crc.Sum32(), binary.LittleEndian.Uint32(f[4:]) != crc32.ChecksumIEEE(f[8:14]):
		return errors.New("wrong CRC")
	case uint64(binary.LittleEndian.Uint32(f[8:]))+1 != size/4:
		return errors.New("the footer has another size of the index")
	case [2]byte(f[12:]) != z.flags, string(f[14:]) != xzFooter:
		return errors.New("the footer is not that of the stream")
	}
	z.blocks = xzSums{}
	return nil
}

// hashedBytes hashes the bytes that are read.
type hashedBytes struct {
	in   io.ByteReader
	hash hash.Hash
}

func (h *hashedBytes) ReadByte() (byte, error) {
	b, err := h.in.ReadByte()
	if err == nil {
		h.hash.Write([]byte{b})
	}
	return b, err
}

// xzNumber reads a number of at most 63 bits in its one spelling: 7 bits a
// byte, the least first.
func xzNumber(r io.ByteReader) (uint64, error) {
	var v uint64
	for shift := 0; shift < 63; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, unexpected(err)
		}
		v |= uint64(b&0x7f) << shift
		if b&0x80 == 0 {
			if b == 0 && shift > 0 {
				break
			}
			return v, nil
		}
	}
	return 0, errors.New("number of more than 63 bits, or with needless bytes")
}
