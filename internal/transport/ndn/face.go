package ndn

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// face is a connection to a forwarder.
type face struct {
	conn   net.Conn
	closed atomic.Bool
	mu     sync.Mutex // held while something is sent
}

// close ends the connection. Errors say that it has ended.
func (f *face) close() {
	f.closed.Store(true)
	f.conn.Close()
}

// send sends packets. A forwarder that does not read them loses the connection.
func (f *face) send(packets []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.conn.SetWriteDeadline(time.Now().Add(stall))
	if err == nil {
		_, err = f.conn.Write(packets)
	}
	if err != nil {
		f.close() // half a packet may be out
	}
	return err
}

// read hands each packet to handle until the connection ends, or is none of
// packets. What handle gets is valid until it returns. Packets that are
// malformed are passed over.
func (f *face) read(handle func(packet)) error {
	buf := make([]byte, 8*maxPacket)
	start, end := 0, 0
	for {
		for {
			size, err := frameSize(buf[start:end])
			if err != nil {
				return err
			}
			if size == 0 || size > end-start {
				break
			}
			if p, err := parsePacket(buf[start : start+size]); err == nil {
				handle(p)
			}
			start += size
		}
		if len(buf)-start < maxPacket {
			end = copy(buf, buf[start:end])
			start = 0
		}
		n, err := f.conn.Read(buf[end:])
		end += n
		if n == 0 && err != nil {
			if start < end && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// frameSize returns the size of the packet that b begins with, 0 if that is not
// there yet.
func frameSize(b []byte) (int, error) {
	_, n, err := parseNumber(b)
	if err != nil || n == 0 {
		return 0, err
	}
	length, m, err := parseNumber(b[n:])
	if err != nil || m == 0 {
		return 0, err
	}
	if length > uint64(maxPacket-n-m) {
		return 0, fmt.Errorf("%w: %d bytes long", ErrMalformed, length)
	}
	return n + m + int(length), nil
}
