// Package eriscbor reads and writes the files of ERIS (eris.codeberg.page/eer,
// "CBOR Serialization of ERIS Encoded Content" and "ERIS Link Files"), which are
// made of CBOR (RFC 8949):
//
//   - a bundle, 1701996915([{* ref => block}, * 276(read capability)]), carries
//     blocks from place to place;
//   - a link file, 55799([276(read capability), size, media type, {…}]), names
//     a content and says what it is.
//
// A bundle may be larger than memory: its blocks go in and out one by one. What
// is read may be hostile: lengths are compared before anything is read, and a
// block is hashed before anybody sees it.
package eriscbor

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"ersatz/eris"
)

// MaxCaps bounds the read capabilities of a bundle.
const MaxCaps = 1 << 17

// Writer writes a bundle, in the indefinite form, which needs no counts ahead.
// It remembers the references of the blocks, some 50 bytes each, since a map
// has each key once. It is not safe for concurrent use.
type Writer struct {
	w    *bufio.Writer
	seen map[eris.Ref]struct{}
	n    int64
	err  error // the first
}

// NewWriter returns a Writer to w. Finish ends the bundle.
func NewWriter(w io.Writer) *Writer {
	b := &Writer{w: bufio.NewWriterSize(w, 256<<10), seen: map[eris.Ref]struct{}{}}
	start := appendHead(nil, majorTag, tagBundle)
	b.write(append(start, indefiniteHead(majorArray), indefiniteHead(majorMap)))
	return b
}

func (b *Writer) write(p []byte) {
	if b.err == nil {
		_, b.err = b.w.Write(p)
		b.n += int64(len(p))
	}
}

// Block adds a block, which the caller has computed or verified. One that is
// there already is left out. No part of data is kept.
func (b *Writer) Block(ref eris.Ref, data []byte) error {
	if !eris.BlockSize(len(data)).Valid() {
		return fmt.Errorf("block %s: %w: no block has %d bytes", ref, eris.ErrCorrupt, len(data))
	}
	if _, ok := b.seen[ref]; ok || b.err != nil {
		return b.err
	}
	b.seen[ref] = struct{}{}
	b.write(appendHead(nil, majorBytes, uint64(len(ref))))
	b.write(ref[:])
	b.write(appendHead(nil, majorBytes, uint64(len(data))))
	b.write(data)
	return b.err
}

// Emit adds a block of an Encoder.
func (b *Writer) Emit(block eris.Block) error { return b.Block(block.Ref, block.Data) }

// Blocks returns how many blocks have been added.
func (b *Writer) Blocks() int { return len(b.seen) }

// Size returns how many bytes have been written.
func (b *Writer) Size() int64 { return b.n }

// Finish ends the bundle with read capabilities of contents whose blocks are in
// it, or elsewhere. The Writer cannot be used afterwards.
func (b *Writer) Finish(caps ...eris.ReadCap) error {
	b.write([]byte{breakByte})
	for _, c := range caps {
		b.write(appendReadCap(nil, c))
	}
	b.write([]byte{breakByte})
	if b.err == nil {
		b.err = b.w.Flush()
	}
	err := b.err
	b.err = errors.New("bundle is finished")
	return err
}

// Reader reads a bundle from its beginning to its end: blocks, then read
// capabilities. Array and map may be of definite length or not, the tag
// 1701996915 may be left out, and 55799 may precede it. Strings are of
// definite length. It is not safe for concurrent use.
type Reader struct {
	d      decoder
	array  series
	blocks series
	begun  bool
	err    error // what ended it
	block  [eris.Size32KiB]byte
}

// NewReader returns a Reader of r, which it reads ahead of itself.
func NewReader(r io.Reader) *Reader {
	return &Reader{d: decoder{r: bufio.NewReaderSize(r, 256<<10), what: "bundle"}}
}

// begin reads what precedes the first block.
func (r *Reader) begin() error {
	h, err := r.d.head()
	if err == nil && h.major == majorTag && h.arg == tagSelfDescribe {
		if h, err = r.d.head(); err == nil && (h.major != majorTag || h.arg != tagBundle) {
			err = r.d.malformed("tag 55799 precedes %v, not tag 1701996915", h)
		}
	}
	if err == nil && h.major == majorTag && h.arg == tagBundle {
		h, err = r.d.head()
	}
	if err != nil {
		return err
	}
	if h.major != majorArray {
		return r.d.malformed("no bundle of blocks, which is an array: %v", h)
	}
	r.array = series{h.arg, h.indefinite}
	h, ok, err := r.array.more(&r.d)
	if err != nil {
		return err
	}
	if !ok || h.major != majorMap {
		return r.d.malformed("no bundle of blocks: no map stands first")
	}
	r.blocks = series{h.arg, h.indefinite}
	return nil
}

// Block returns the next block, whose bytes are valid until the next call, and
// io.EOF after the last one. If the error matches eris.ErrCorrupt and is an
// *eris.CorruptError, these bytes are not the block that they are there for,
// and the next call goes on behind them; all other errors last.
func (r *Reader) Block() (eris.Ref, []byte, error) {
	if r.err != nil {
		return eris.Ref{}, nil, r.err
	}
	ref, size, err := r.next()
	if err != nil {
		return ref, nil, err
	}
	block := r.block[:size]
	if r.err = r.d.full(block); r.err != nil {
		return ref, nil, r.err
	}
	if eris.BlockRef(block) != ref {
		return ref, nil, &eris.CorruptError{Ref: ref, Msg: mismatch}
	}
	return ref, block, nil
}

// mismatch is what is wrong with a block.
const mismatch = "bytes do not match the reference"

// next reads up to the next block's bytes. Its error lasts.
func (r *Reader) next() (ref eris.Ref, size eris.BlockSize, err error) {
	ref, size, r.err = r.heads()
	return ref, size, r.err
}

func (r *Reader) heads() (ref eris.Ref, size eris.BlockSize, err error) {
	if !r.begun {
		if err := r.begin(); err != nil {
			return ref, 0, err
		}
		r.begun = true
	}
	h, ok, err := r.blocks.more(&r.d)
	if err != nil {
		return ref, 0, err
	}
	if !ok {
		return ref, 0, io.EOF
	}
	if h.major != majorBytes || h.indefinite || h.arg != uint64(len(ref)) {
		return ref, 0, r.d.malformed("%v instead of a reference", h)
	}
	if err := r.d.full(ref[:]); err != nil {
		return ref, 0, err
	}
	if h, err = r.d.head(); err != nil {
		return ref, 0, err
	}
	if h.major != majorBytes || h.indefinite || h.arg > uint64(len(r.block)) || !eris.BlockSize(h.arg).Valid() {
		return ref, 0, r.d.malformed("%v instead of a block", h)
	}
	return ref, eris.BlockSize(h.arg), nil
}

// Offset returns where in the input the bytes after the last block begin.
func (r *Reader) Offset() int64 { return r.d.off }

// Caps returns the read capabilities, after the last block, and makes sure that
// nothing follows. There are at most MaxCaps.
func (r *Reader) Caps() ([]eris.ReadCap, error) {
	if !errors.Is(r.err, io.EOF) {
		return nil, errors.Join(errors.New("bundle: blocks come before read capabilities"), r.err)
	}
	var caps []eris.ReadCap
	for {
		h, ok, err := r.array.more(&r.d)
		if err != nil {
			return nil, err
		}
		if !ok {
			return caps, r.d.end()
		}
		if len(caps) == MaxCaps {
			return nil, r.d.malformed("more than %d read capabilities", MaxCaps)
		}
		c, err := r.d.readCap(h)
		if err != nil {
			return nil, err
		}
		caps = append(caps, c)
	}
}
