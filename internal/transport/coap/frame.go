package coap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	tcpcoder "github.com/plgd-dev/go-coap/v3/tcp/coder"
	udpcoder "github.com/plgd-dev/go-coap/v3/udp/coder"
)

// errMessage says that a peer sent what is no message, or too long a one.
var errMessage = errors.New("message is malformed")

// readFrame reads the bytes of one message from a TCP connection (RFC 8323,
// "Message Format") into buf if it has room, else into a slice of its own. The
// error is io.EOF if the connection ends before the message begins.
func readFrame(r *bufio.Reader, buf []byte) ([]byte, error) {
	first, err := r.Peek(1)
	if err != nil {
		return nil, err
	}
	token := int(first[0] & 15)
	if token > message.MaxTokenSize {
		return nil, fmt.Errorf("%w: token of %d bytes", errMessage, token)
	}
	extra := max(0, int(first[0]>>4)-12) // which bytes of length follow: 0, 1, 2 or 3
	if extra == 3 {
		return nil, fmt.Errorf("%w: longer than 65804 bytes", errMessage)
	}
	head, err := r.Peek(1 + extra)
	if err != nil {
		return nil, unexpected(err)
	}
	length := int(first[0] >> 4)
	switch extra {
	case 1:
		length = 13 + int(head[1])
	case 2:
		length = 269 + int(binary.BigEndian.Uint16(head[1:]))
	}
	total := 1 + extra + 1 + token + length
	if total > maxMessage {
		return nil, fmt.Errorf("%w: %d bytes, %d at most", errMessage, total, maxMessage)
	}
	if total > len(buf) {
		buf = make([]byte, total)
	}
	_, err = io.ReadFull(r, buf[:total])
	return buf[:total], unexpected(err)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// parseFrame reads the message that readFrame has given, of which it keeps
// parts.
func parseFrame(frame []byte, m *message.Message) error {
	m.Options = make(message.Options, 0, maxOptions)
	if _, err := tcpcoder.DefaultCoder.Decode(frame, m); err != nil {
		return fmt.Errorf("%w: %w", errMessage, err)
	}
	return nil
}

// appendFrame makes the bytes of a message for TCP, in buf if it has room.
func appendFrame(buf []byte, m message.Message) ([]byte, error) {
	return encode(buf, func(b []byte) (int, error) { return tcpcoder.DefaultCoder.Encode(m, b) })
}

// parseDatagram reads a message, of which m keeps parts.
func parseDatagram(b []byte, m *message.Message) error {
	m.Options = make(message.Options, 0, maxOptions)
	if _, err := udpcoder.DefaultCoder.Decode(b, m); err != nil {
		return fmt.Errorf("%w: %w", errMessage, err)
	}
	return nil
}

// appendDatagram makes the bytes of a message for UDP, in buf if it has room.
func appendDatagram(buf []byte, m message.Message) ([]byte, error) {
	return encode(buf, func(b []byte) (int, error) { return udpcoder.DefaultCoder.Encode(m, b) })
}

func encode(buf []byte, to func([]byte) (int, error)) ([]byte, error) {
	buf = buf[:cap(buf)]
	n, err := to(buf)
	if errors.Is(err, message.ErrTooSmall) {
		buf = make([]byte, n+64)
		n, err = to(buf)
	}
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// csm returns the first message of each side of a TCP connection (RFC 8323,
// "Capabilities and Settings Messages"). Without it, the other side would take
// it that no message may be longer than 1152 bytes.
func csm() message.Message {
	return message.Message{Code: codes.CSM, Options: message.Options{
		uintOption(message.TCPMaxMessageSize, maxMessage),
		{ID: message.TCPBlockWiseTransfer},
	}}
}

// peerMax returns the largest message that a peer takes, as its CSM says.
func peerMax(m *message.Message, before int) int {
	if v, ok := findUint(m, message.TCPMaxMessageSize); ok {
		return int(min(v, maxMessage))
	}
	return before
}

// defaultMax is the largest message to a peer that has not said more, in bytes.
const defaultMax = 1152

// overhead is what a message has besides its payload and the options that name
// a store, in bytes, at most.
const overhead = 64

// roomFor returns how many bytes of payload a message to a peer may have that
// takes messages of max bytes.
func roomFor(max int, options message.Options) int {
	max -= overhead
	for _, o := range options {
		max -= len(o.Value) + 3
	}
	return max
}
