package compress_test

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"ersatz/internal/compress"
)

// TestVerified reads whole streams and damaged ones.
func TestVerified(t *testing.T) {
	unpack := func(r io.Reader, name string) ([]byte, error) {
		z, err := compress.NewVerifiedReader(r, name)
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return io.ReadAll(z)
	}
	data := content(400_000)
	lost := errors.New("lost")
	for _, m := range []compress.Method{compress.None, {Name: "gzip", Level: 9}, {Name: "zstd", Level: 3}} {
		packed := pack(t, data, m)
		if got, err := unpack(bytes.NewReader(packed), m.Name); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes back, %v", m, len(got), err)
		}
		if _, err := unpack(io.MultiReader(bytes.NewReader(packed[:len(packed)/2]), iotest.ErrReader(lost)), m.Name); !errors.Is(err, lost) {
			t.Errorf("%s: the source's error is %v", m, err)
		}
		if m == compress.None {
			continue
		}
		for _, cut := range []int{1, 5, len(packed) / 2, len(packed) - 9, len(packed) - 1} {
			if _, err := unpack(bytes.NewReader(packed[:cut]), m.Name); err == nil {
				t.Errorf("%s: cut at %d of %d: no error", m, cut, len(packed))
			}
		}
		twice := append(bytes.Clone(packed), packed...)
		if got, err := unpack(bytes.NewReader(twice), m.Name); err != nil || len(got) != 2*len(data) {
			t.Errorf("%s: two streams: %d bytes, %v", m, len(got), err)
		}
	}
}

// TestVerifiedIsLeft closes readers in the middle: nothing runs after that, or
// reads the source.
func TestVerifiedIsLeft(t *testing.T) {
	packed := pack(t, content(4<<20), compress.Method{Name: "zstd", Level: 3})
	synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
		for range 20 {
			source := bytes.NewReader(packed)
			z, err := compress.NewVerifiedReader(source, "zstd")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(z, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			left := source.Len()
			runtime.Gosched()
			if source.Len() != left {
				t.Error("the source is read after Close")
			}
		}
	})
}
