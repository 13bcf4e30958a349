package ipfs

import (
	"encoding/binary"
	"io"
)

// carWriter writes a CARv1 ("Content Addressable aRchives, version 1"): a
// header with the roots, then sections of CID and block, each with its length
// in front as a varint.
type carWriter struct {
	w   io.Writer
	buf []byte
}

// header writes the header with one root: the DAG-CBOR map
// {"roots": [root], "version": 1}.
func (cw *carWriter) header(root cid) error {
	h := []byte{0xa2, 0x65}
	h = append(h, "roots"...)
	h = appendLink(append(h, 0x81), root)
	h = append(append(h, 0x67), "version"...)
	h = append(h, 0x01)
	cw.buf = binary.AppendUvarint(cw.buf[:0], uint64(len(h)))
	cw.buf = append(cw.buf, h...)
	_, err := cw.w.Write(cw.buf)
	return err
}

// block writes one section, in one call of the writer.
func (cw *carWriter) block(c cid, data []byte) error {
	cw.buf = binary.AppendUvarint(cw.buf[:0], uint64(len(c)+len(data)))
	cw.buf = append(cw.buf, c[:]...)
	cw.buf = append(cw.buf, data...)
	_, err := cw.w.Write(cw.buf)
	return err
}
