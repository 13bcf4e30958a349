package upstream

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"ersatz/narinfo"
)

// TestReadAll: what is said of a length is a hint, and no more.
func TestReadAll(t *testing.T) {
	for _, n := range []int{0, 1, 511, 512, 5000, narinfo.MaxSize - 1, narinfo.MaxSize} {
		want := bytes.Repeat([]byte("x"), n)
		for _, size := range []int64{-1, 0, 1, int64(n) - 1, int64(n), int64(n) + 1, math.MaxInt64} {
			got, err := readAll(iotest.DataErrReader(bytes.NewReader(want)), size)
			if err != nil || got == nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, said to be %d: %d, %v", n, size, len(got), err)
			}
			lost := errors.New("lost")
			if _, err := readAll(io.MultiReader(bytes.NewReader(want), iotest.ErrReader(lost)), size); !errors.Is(err, lost) {
				t.Errorf("%d bytes, said to be %d, that break off: %v", n, size, err)
			}
		}
	}
	for _, n := range []int{narinfo.MaxSize + 1, 3 * narinfo.MaxSize} {
		for _, size := range []int64{-1, int64(n)} {
			for name, r := range map[string]io.Reader{"": strings.NewReader(strings.Repeat("x", n)), ", the last with the end": iotest.DataErrReader(strings.NewReader(strings.Repeat("x", n)))} {
				if text, err := readAll(r, size); err == nil {
					t.Errorf("%d bytes are read%s of %d, said to be %d", len(text), name, n, size)
				}
			}
		}
	}
}
