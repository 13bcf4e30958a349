package main

import (
	"context"
	"errors"
	"net"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/narinfo"
	"ersatz/nixsig"
)

// Exit statuses. docs/exit-codes.md describes them, and a test compares.
const (
	exitOK          = 0
	exitFailed      = 1   // anything else: disk, permissions, a server's error
	exitUsage       = 2   // command line, configuration, malformed URN or key
	exitNotFound    = 3   // no source has a block or an item
	exitCorrupt     = 4   // bytes are not what their name says, or fsck found damage
	exitUntrusted   = 5   // no signature by an authorized key
	exitUnreachable = 6   // a server or daemon does not answer
	exitDoctor      = 7   // doctor found something to mend
	exitInterrupted = 130 // by SIGINT or SIGTERM
)

// Errors of the commands themselves.
var (
	errUsage  = errors.New("usage")
	errDamage = errors.New("damage found")
	errDoctor = errors.New("something is to be mended")
)

// exitCode is the one place where errors become exit statuses.
func exitCode(err error) int {
	var unreachable *net.OpError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errUsage):
		return exitUsage
	case errors.Is(err, errDoctor):
		return exitDoctor
	// Both in one error: a source lied, and no other had the block.
	case errors.Is(err, eris.ErrCorrupt), errors.Is(err, eris.ErrTooLong),
		errors.Is(err, narinfo.ErrMalformed), errors.Is(err, errDamage):
		return exitCorrupt
	case errors.Is(err, eris.ErrNotFound):
		return exitNotFound
	case errors.Is(err, narinfo.ErrUnsigned), errors.Is(err, narinfo.ErrUnauthorized), errors.Is(err, narinfo.ErrChanged),
		errors.Is(err, guixsig.ErrBadSignature), errors.Is(err, nixsig.ErrBadSignature):
		return exitUntrusted
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &unreachable):
		return exitUnreachable
	}
	return exitFailed
}

// markedError gives an error a class of exitCode without changing its words.
type markedError struct {
	class error
	error
}

func (e *markedError) Is(target error) bool { return target == e.class }

func (e *markedError) Unwrap() error { return e.error }

// usageError marks err as the caller's fault; nil stays nil.
func usageError(err error) error {
	if err == nil {
		return nil
	}
	return &markedError{errUsage, err}
}
