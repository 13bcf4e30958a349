package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestLimited(t *testing.T) {
	for _, c := range []struct {
		length, limit int
		err           error
	}{{0, 0, nil}, {10, 10, nil}, {10, 11, nil}, {11, 10, ErrTooLong}, {1, 0, ErrTooLong}} {
		for _, wrap := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader, iotest.HalfReader} {
			counted := 0
			l := &Limited{R: wrap(strings.NewReader(strings.Repeat("x", c.length))), Left: int64(c.limit), Add: func(n int) { counted += n }}
			got, err := io.ReadAll(l)
			if !errors.Is(err, c.err) || len(got) != min(c.length, c.limit) || counted != len(got) {
				t.Errorf("%d bytes, limit %d: %d, counted %d, %v", c.length, c.limit, len(got), counted, err)
			}
		}
	}
}

func TestFaults(t *testing.T) {
	f := &Faults{R: bytes.NewReader([]byte("x"))}
	if _, err := io.ReadAll(f); err != nil || f.Err() != nil {
		t.Errorf("a good end: %v, %v", err, f.Err())
	}
	// net/http wraps io.EOF for a connection that was lost.
	lost := fmt.Errorf("post: %w", io.EOF)
	f = &Faults{R: iotest.ErrReader(lost)}
	if _, err := io.ReadAll(f); !errors.Is(err, lost) || f.Err() == nil {
		t.Errorf("a lost connection: %v, %v", err, f.Err())
	}
}
