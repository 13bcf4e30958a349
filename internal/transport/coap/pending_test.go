package coap

import (
	"errors"
	"net"
	"testing"
)

// closing is a connection whose reader fails as soon as it is closed.
type closing struct {
	net.Conn
	closed func()
}

func (c closing) Close() error {
	c.closed()
	return nil
}

// TestFailTellsWhy: those who wait learn why a connection ends, not that its reader
// found it closed: they ask again only where it was lost.
func TestFailTellsWhy(t *testing.T) {
	n := 0
	var p pending[*waiter]
	p = newPending[*waiter](closing{closed: func() {
		if n++; n == 1 {
			p.fail(net.ErrClosed)
		}
	}})
	w := &waiter{done: make(chan struct{})}
	p.waiting[1] = w
	p.fail(errLost)
	<-w.done
	if !errors.Is(w.err, errLost) || !errors.Is(p.err, errLost) {
		t.Errorf("%v, %v", w.err, p.err)
	}
	if n != 1 {
		t.Errorf("closed %d times", n)
	}
}
