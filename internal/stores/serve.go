package stores

import (
	"context"
	"errors"
	"net"

	"ersatz/eris"
	"ersatz/internal/block"
)

// address returns what to listen at: the port is the scheme's if the URL has none.
func (u URL) address(port string) string {
	if _, _, err := net.SplitHostPort(u.host); err == nil {
		return u.host
	}
	return u.host + ":" + port // an IPv6 address has its brackets
}

// listen listens by TCP.
func (s *Set) listen(ctx context.Context, u URL, port string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", u.address(port))
	if err != nil {
		return nil, err
	}
	s.listening(u, l.Addr(), l.Close)
	return l, nil
}

// listening notes a listener, which Close closes if Run has not.
func (s *Set) listening(u URL, a net.Addr, end func() error) {
	s.listeners = append(s.listeners, Listener{Name: u.String(), URL: u, Addr: a})
	s.onClose(func() error {
		if err := end(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
}

// library returns the blocks that are served, as slowly as the Limiter wants.
func (s *Set) library() block.Getter {
	if s.o.Limiter == nil {
		return s.o.Library
	}
	return limited{s.o.Library, s.o.Limiter}
}

type limited struct {
	block.Getter
	limit Limiter
}

func (l limited) Get(ctx context.Context, ref eris.Ref) ([]byte, error) {
	b, err := l.Getter.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	return b, l.limit.WaitN(ctx, len(b))
}
