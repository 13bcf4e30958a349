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
	s.listeners = append(s.listeners, Listener{Name: u.name(), URL: u, Addr: a})
	s.onClose(func() error {
		if err := end(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
}

// served is what others get by HTTP, as slowly as limit wants, if it is not nil.
type served struct {
	block.Getter
	limit Limiter
}

// batcher is a library that finds many blocks faster than one by one.
type batcher interface {
	// Batch is as n2r.Blocks has it.
	Batch(ctx context.Context, refs []eris.Ref, emit func(i int, block []byte) error) error
}

func (s served) Get(ctx context.Context, ref eris.Ref) ([]byte, error) {
	b, err := s.Getter.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	return b, s.wait(ctx, len(b))
}

func (s served) wait(ctx context.Context, n int) error {
	if s.limit == nil {
		return nil
	}
	return s.limit.WaitN(ctx, n)
}

func (s served) Batch(ctx context.Context, refs []eris.Ref, emit func(int, []byte) error) error {
	if all, ok := s.Getter.(batcher); ok {
		return all.Batch(ctx, refs, func(i int, b []byte) error {
			if err := s.wait(ctx, len(b)); err != nil {
				return err
			}
			return emit(i, b)
		})
	}
	for i, ref := range refs {
		b, err := s.Get(ctx, ref)
		if err != nil && !errors.Is(err, eris.ErrNotFound) {
			return err
		}
		if err := emit(i, b); err != nil {
			return err
		}
	}
	return nil
}
