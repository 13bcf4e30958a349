package upstream

import (
	"errors"
	"io"
	"net"

	"golang.org/x/sys/unix"

	"ersatz/eris"
	"ersatz/internal/transport/httpclient"
)

// unreachable reports whether there was no connection at all.
func unreachable(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect")
}

// Waited reports whether a request failed because nothing came.
func Waited(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, httpclient.ErrIdle) || errors.As(err, &timeout) && timeout.Timeout()
}

// BrokeOff reports whether a connection ended too soon. A source that is slow,
// lies or has nothing is not one that it helps to ask again.
func BrokeOff(err error) bool {
	if Waited(err) || errors.Is(err, eris.ErrCorrupt) || errors.Is(err, eris.ErrTooLong) {
		return false
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET)
}
