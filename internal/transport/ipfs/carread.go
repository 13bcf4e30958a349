package ipfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

const (
	// maxHeader bounds the header of a CAR in bytes: two roots and more.
	maxHeader = 256

	// maxSection bounds a section: the largest block of IPFS and a CID.
	maxSection = 2<<20 + 128
)

// ErrCAR says that a CAR is malformed, or ends where it must not.
var ErrCAR = errors.New("ipfs: malformed CAR")

// carReader reads a CARv1 that somebody else has made. It does not verify
// blocks.
type carReader struct {
	r   *bufio.Reader
	buf []byte
}

// newCARReader reads the header. It wants version 1 as DAG-CBOR has it, and
// passes over the roots: who asked for a CAR knows what it has to begin with.
func newCARReader(r io.Reader) (*carReader, error) {
	c := &carReader{r: bufio.NewReaderSize(r, 64<<10)}
	n, err := c.length(maxHeader)
	if err != nil {
		return nil, fmt.Errorf("header: %w", unexpectedEnd(err))
	}
	h := make([]byte, n)
	if _, err := io.ReadFull(c.r, h); err != nil {
		return nil, fmt.Errorf("header: %w", unexpectedEnd(err))
	}
	if !bytes.HasPrefix(h, []byte("\xa2\x65roots")) || !bytes.HasSuffix(h, []byte("\x67version\x01")) {
		return nil, fmt.Errorf("%w: header is not one of version 1", ErrCAR)
	}
	return c, nil
}

// next returns the next block whose CID is one of ours, and that is not longer
// than a manifest's node. It passes over others. The data are valid until the
// next call. At the end of the CAR the error is io.EOF.
func (c *carReader) next() (id cid, data []byte, err error) {
	for {
		n, err := c.length(maxSection)
		if err != nil {
			return cid{}, nil, err
		}
		if n < len(id) {
			if _, err := c.r.Discard(n); err != nil {
				return cid{}, nil, unexpectedEnd(err)
			}
			continue
		}
		if _, err := io.ReadFull(c.r, id[:]); err != nil {
			return cid{}, nil, unexpectedEnd(err)
		}
		if n -= len(id); n > maxNode || id != newCID(id[1], id.digest()) || id[1] != codecRaw && id[1] != codecDagCBOR {
			if _, err := c.r.Discard(n); err != nil {
				return cid{}, nil, unexpectedEnd(err)
			}
			continue
		}
		if cap(c.buf) < n {
			c.buf = make([]byte, n)
		}
		data = c.buf[:n]
		if _, err := io.ReadFull(c.r, data); err != nil {
			return cid{}, nil, unexpectedEnd(err)
		}
		return id, data, nil
	}
}

// length reads a varint in its shortest form, of at most limit. At the end of
// the CAR the error is io.EOF.
func (c *carReader) length(limit int) (int, error) {
	var n uint64
	for shift := 0; shift < 28; shift += 7 {
		b, err := c.r.ReadByte()
		if err != nil {
			if shift > 0 {
				err = unexpectedEnd(err)
			}
			return 0, err
		}
		if n |= uint64(b&0x7f) << shift; b < 0x80 {
			if b == 0 || n > uint64(limit) {
				return 0, fmt.Errorf("%w: length %d", ErrCAR, n)
			}
			return int(n), nil
		}
	}
	return 0, fmt.Errorf("%w: length is no number", ErrCAR)
}

func unexpectedEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: ends in between", ErrCAR)
	}
	return err
}
