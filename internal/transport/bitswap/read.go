package bitswap

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ipfs/boxo/bitswap/message"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-msgio"
)

const (
	// maxMessage bounds a message from a peer, in bytes; Kubo's wantlists and
	// blocks stay below.
	maxMessage = 2<<20 + 1<<16

	// readTime is how long a message may take to come, once it has begun.
	readTime = 2 * time.Minute

	// firstPart is how much of a message memory is taken for before any of it
	// has come, in bytes.
	firstPart = 16 << 10

	// partMemory is what a part of a message takes when it is understood, in
	// bytes; it may have taken two to come.
	partMemory = 256
)

// read reads a message. All that it takes is reserved before, as it comes: who
// says that much will come, and sends nothing, takes next to nothing. priority is
// as in network.ResourceScope.
func read(s network.Stream, priority uint8) (message.BitSwapMessage, error) {
	if err := s.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	var first [1]byte
	if _, err := io.ReadFull(s, first[:]); err != nil {
		return nil, err
	}
	if err := s.SetReadDeadline(time.Now().Add(readTime)); err != nil {
		return nil, err
	}
	n, err := binary.ReadUvarint(&oneByOne{s, first[:]})
	if err != nil {
		return nil, err
	}
	if n > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes, of %d at most", n, maxMessage)
	}
	held := 0
	defer func() { s.Scope().ReleaseMemory(held) }()
	reserve := func(n int) error {
		err := s.Scope().ReserveMemory(n, priority)
		if err == nil {
			held += n
		}
		return err
	}
	var b []byte
	for left := int(n); left > 0; left = int(n) - len(b) {
		more := min(left, max(firstPart, len(b)))
		// Once as it comes, once as it is understood.
		if err := reserve(2 * more); err != nil {
			return nil, err
		}
		b = slices.Grow(b, more)[:len(b)+more]
		if _, err := io.ReadFull(s, b[len(b)-more:]); err != nil {
			return nil, err
		}
	}
	if err := reserve(partMemory * parts(b, true)); err != nil {
		return nil, err
	}
	m, _, err := message.FromMsgReader(whole(b))
	return m, err
}

// parts returns how many parts a message has that take memory: wants, blocks, and
// words on blocks. In protocol buffers each can be as short as two bytes. What is
// malformed is for others to find. lists says whether the first field is a list.
func parts(b []byte, lists bool) (n int) {
	for len(b) > 0 {
		tag, k := binary.Uvarint(b)
		if k <= 0 {
			return n
		}
		b = b[k:]
		n++
		skip := uint64(0)
		switch tag & 7 {
		case 0: // varint
			if _, k = binary.Uvarint(b); k <= 0 {
				return n
			}
			skip = uint64(k)
		case 1: // of 64 bits
			skip = 8
		case 2: // with a length
			length, k := binary.Uvarint(b)
			if k <= 0 || length > uint64(len(b)-k) {
				return n
			}
			b, skip = b[k:], length
			if lists && tag>>3 == 1 {
				n += parts(b[:length], false)
			}
		case 3, 4: // around others, which may be unknown
		case 5: // of 32 bits
			skip = 4
		default:
			return n
		}
		if skip > uint64(len(b)) {
			return n
		}
		b = b[skip:]
	}
	return n
}

// oneByOne reads single bytes, those first that were read ahead.
type oneByOne struct {
	r     io.Reader
	ahead []byte
}

func (o *oneByOne) ReadByte() (c byte, err error) {
	var b [1]byte
	if len(o.ahead) > 0 {
		c, o.ahead = o.ahead[0], o.ahead[1:]
		return c, nil
	}
	_, err = io.ReadFull(o.r, b[:])
	return b[0], err
}

// whole is a msgio.Reader of one message that is there already.
type whole []byte

var _ msgio.Reader = whole(nil)

func (w whole) Read(p []byte) (int, error) { return copy(p, w), nil }
func (w whole) NextMsgLen() (int, error)   { return len(w), nil }
func (w whole) ReadMsg() ([]byte, error)   { return w, nil }
func (w whole) ReleaseMsg([]byte)          {}
