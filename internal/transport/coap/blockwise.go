package coap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"ersatz/eris"
)

// part is the value of a Block1 or Block2 option (RFC 7959, "Structure of a
// Block Option"): which part of a body a message has.
type part struct {
	num  uint32 // of the parts before it, all of its size; 20 bits
	more bool   // it is not the last one
	szx  uint8  // its size is 16<<szx bytes; or szxBERT
}

const (
	// szx1024 stands for the largest parts that datagrams have, of 1 KiB.
	szx1024 = 6

	// szxBERT stands for several parts of 1 KiB in one message, which TCP
	// allows (RFC 8323, "Block-Wise Transfer and Reliable Transports"). We
	// take them, and have no need to send them.
	szxBERT = 7

	// minSZX is the smallest size of parts that a client bears with, 256
	// bytes: with smaller ones, a server would draw a block out for ever.
	minSZX = 4

	maxPart = 1 << (szx1024 + 4) // bytes
)

func (p part) size() int   { return 16 << min(p.szx, szx1024) }
func (p part) offset() int { return int(p.num) * p.size() }

// fits reports whether a message may have n bytes for the part.
func (p part) fits(n int) bool {
	whole := n == p.size() || p.szx == szxBERT && n > 0 && n%p.size() == 0
	return whole || !p.more && (n <= p.size() || p.szx == szxBERT)
}

func (p part) option(id message.OptionID) message.Option {
	v := p.num<<4 | uint32(p.szx)
	if p.more {
		v |= 8
	}
	return uintOption(id, v)
}

// parsePart reads an option's value. ok is false for one that RFC 7959 does
// not have, or keeps for later.
func parsePart(v uint32) (p part, ok bool) {
	p = part{num: v >> 4, more: v&8 != 0, szx: uint8(v & 7)}
	return p, v < 1<<24
}

// answer is what a request has got.
type answer struct {
	code    codes.Code
	payload []byte  // in the buffer that do was given
	block   *uint32 // the value of Block2, or of Block1 if the request has one
	echo    []byte  // what the server wants to have sent back; nil: nothing
}

// exchanger is a connection.
type exchanger interface {
	// do sends a request and waits for its answer. It gives the request a
	// token and what else the connection needs. The answer's payload is in
	// buf, cut to its capacity. The error matches errLost if the connection
	// ended.
	do(ctx context.Context, req message.Message, buf []byte) (answer, error)

	// room returns how many bytes of payload a request with these options may
	// have. It may wait for the peer to say so.
	room(ctx context.Context, options message.Options) (int, error)

	// usable reports whether one more request may be sent, which only falls.
	usable() bool

	// close ends the connection; requests that wait fail.
	close()
}

// errSlow is why a transfer in parts was given up.
var errSlow = errors.New("block takes too long")

// getBlock asks for a block and reads it into buf, which has room for one byte
// more than a block has. It returns nil if the server lacks it. The parts of a
// block may take idle together.
func getBlock(ctx context.Context, ex exchanger, store message.Options, ref eris.Ref, buf []byte, idle time.Duration) ([]byte, error) {
	size := len(buf) - 1
	request := func(p *part) message.Message {
		o := make(message.Options, 0, len(store)+3)
		o = append(append(o, store...), message.Option{ID: message.URIQuery, Value: ref[:]})
		if p != nil {
			o = append(o, p.option(message.Block2))
		}
		return message.Message{Code: codes.GET, Options: append(o, uintOption(message.Size1, uint32(size)))}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next *part
	for off := 0; ; {
		a, err := ask(ctx, ex, request(next), buf[off:])
		switch {
		case err != nil:
			return nil, err
		case a.code == codes.NotFound && next == nil:
			return nil, nil
		case a.code != codes.Content:
			return nil, statusError(a.code, a.payload)
		case a.block == nil && next == nil:
			return a.payload, nil
		case a.block == nil:
			return nil, errors.New("server stopped sending parts")
		}
		p, ok := parsePart(*a.block)
		n := len(a.payload)
		switch {
		case !ok || p.szx < minSZX || p.offset() != off:
			return nil, fmt.Errorf("part %#x, asked for from %d on", *a.block, off)
		case off+n > size:
			return buf[:off+n], nil // too long, which got finds out
		case !p.fits(n):
			return nil, fmt.Errorf("part %#x has %d bytes", *a.block, n)
		case !p.more:
			return buf[:off+n], nil
		}
		off += n
		if next == nil {
			timer := time.AfterFunc(idle, func() { cancel(errSlow) })
			defer timer.Stop()
		}
		next = &part{num: uint32(off / p.size()), szx: p.szx}
	}
}

// putBlock sends a block, in parts if the peer takes no larger messages.
func putBlock(ctx context.Context, ex exchanger, store message.Options, block []byte, idle time.Duration) error {
	room, err := ex.room(ctx, store)
	if err != nil {
		return err
	}
	var buf [128]byte // for what the server says of it
	if len(block) <= room {
		a, err := ask(ctx, ex, message.Message{Code: codes.PUT, Options: store, Payload: block}, buf[:])
		return putError(a, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, idle, errSlow)
	defer cancel()
	p := part{szx: szx1024}
	for off := 0; ; {
		end := min(off+p.size(), len(block))
		p.more = end < len(block)
		o := append(make(message.Options, 0, len(store)+2), store...)
		o = append(o, p.option(message.Block1), uintOption(message.Size1, uint32(len(block))))
		a, err := ask(ctx, ex, message.Message{Code: codes.PUT, Options: o, Payload: block[off:end]}, buf[:])
		if err != nil || a.code != codes.Continue || !p.more {
			return putError(a, err)
		}
		// The server may want smaller parts (RFC 7959, "Negotiating a smaller
		// block size"): its number stands for what it has taken.
		if a.block != nil {
			if q, ok := parsePart(*a.block); ok && q.szx >= minSZX && q.szx < p.szx {
				p.szx = q.szx
				end = min(off+p.size(), len(block))
			}
		}
		off = end
		p.num = uint32(off / p.size())
	}
}

// putError is the error of a block's last answer. Other stores answer 2.04 for
// what they had already.
func putError(a answer, err error) error {
	if err == nil && a.code != codes.Created && a.code != codes.Changed {
		err = statusError(a.code, a.payload)
	}
	return err
}
