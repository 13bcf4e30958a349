// Package coap carries ERIS blocks over CoAP, as "ERIS over CoAP" has it
// (https://eris.codeberg.page/eer/coap.xml): over TCP (RFC 8323), over UDP by
// block-wise transfer (RFC 7252, RFC 7959), and over DTLS with a key that both
// sides know. What that text leaves open is as python-eris and eris-nim do it;
// docs/transports.md says which is which.
//
// The messages are read and written by go-coap. Its connections are not used:
// they keep, unbounded, what peers make them keep.
package coap

import (
	"errors"
	"fmt"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"ersatz/eris"
)

const (
	// WellKnown is the path of the store of a server that has but one.
	WellKnown = "/.well-known/eris"

	// resource is the name of the blocks within a store.
	resource = "blocks"

	// maxMessage is the largest message that is read and announced, in bytes:
	// a block, and more than its options need.
	maxMessage = 32<<10 + 1<<10

	// maxAge tells caches how long a block is good, in seconds: its name is
	// its hash.
	maxAge = 365 * 24 * 60 * 60

	// maxOptions bounds the options of a message. A store URL has a segment
	// of its path in each.
	maxOptions = 32

	refSize = len(eris.Ref{})
)

// errLost says that a connection ended before the answer came.
var errLost = errors.New("connection was lost")

// StatusError is an answer that is neither a block nor that there is none.
type StatusError struct {
	Code codes.Code
	Text string // what the server says about it, cut short
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("server answered %d.%02d %v", e.Code>>5, e.Code&0x1f, e.Code)
	if e.Text != "" {
		s += fmt.Sprintf(": %q", e.Text)
	}
	return s
}

// statusError makes an error of an answer.
func statusError(code codes.Code, payload []byte) error {
	return &StatusError{Code: code, Text: string(payload[:min(len(payload), 100)])}
}

// parseQuery reads a Uri-Query option that names a block: the reference as it
// is, or its 52 characters of upper-case Base32.
func parseQuery(value []byte) (eris.Ref, bool) {
	if len(value) == refSize {
		return eris.Ref(value), true
	}
	ref, err := eris.ParseRef(string(value))
	return ref, err == nil
}

// uintOption returns the value of an option, as the fewest bytes that hold it
// (RFC 7252, "Option Value Formats").
func uintOption(id message.OptionID, value uint32) message.Option {
	b := []byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	return message.Option{ID: id, Value: b}
}

// findUint returns the value of the first option id of a message.
func findUint(m *message.Message, id message.OptionID) (value uint32, ok bool) {
	for _, o := range m.Options {
		if o.ID != id {
			continue
		}
		if len(o.Value) > 4 {
			return 0, false
		}
		for _, b := range o.Value {
			value = value<<8 | uint32(b)
		}
		return value, true
	}
	return 0, false
}
