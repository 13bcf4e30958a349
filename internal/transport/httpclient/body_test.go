package httpclient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// drip is a body that gives n bytes at a time, and none after 100.
type drip struct {
	ctx   context.Context
	n     int
	every time.Duration
	times int
}

func (d *drip) Read(p []byte) (int, error) {
	if d.times++; d.times > 100 {
		return 0, io.EOF
	}
	select {
	case <-time.After(d.every):
		return min(d.n, len(p)), nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

func (d *drip) Close() error { return nil }

// TestTrickle wants a body that comes byte by byte to end, and one that comes
// slowly, over a line of 2 kbit/s, to come whole.
func TestTrickle(t *testing.T) {
	for name, c := range map[string]struct {
		n     int
		every time.Duration
		want  error
	}{
		"a byte now and then": {1, time.Second, ErrIdle},
		"slow":                {512, 2 * time.Second, nil},
		"all after a wait":    {4 << 10, 9 * time.Second, nil},
		"too late":            {4 << 10, 11 * time.Second, ErrIdle},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				b := newBody(ctx, cancel, &http.Response{Body: &drip{ctx: ctx, n: c.n, every: c.every}}, 10*time.Second)
				n, err := io.Copy(io.Discard, b)
				if !errors.Is(err, c.want) || c.want == nil && n != int64(100*c.n) {
					t.Errorf("%d bytes, %v", n, err)
				}
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
