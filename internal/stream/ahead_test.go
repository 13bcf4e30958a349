package stream

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

func TestAhead(t *testing.T) {
	content := make([]byte, 3*aheadMax*aheadSize+17)
	rand.NewChaCha8([32]byte{1}).Read(content)
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		r    io.Reader
		want []byte
		err  error
	}{
		"whole":           {bytes.NewReader(content), content, nil},
		"error with data": {iotest.DataErrReader(bytes.NewReader(content)), content, nil},
		"small pieces":    {iotest.HalfReader(bytes.NewReader(content)), content, nil},
		"empty":           {bytes.NewReader(nil), nil, nil},
		"broken":          {io.MultiReader(bytes.NewReader(content[:aheadSize+1]), iotest.ErrReader(broken)), content[:aheadSize+1], broken},
	} {
		a := ReadAhead(c.r)
		got, err := io.ReadAll(a)
		if !bytes.Equal(got, c.want) || !errors.Is(err, c.err) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if _, again := a.Read(make([]byte, 1)); !errors.Is(again, cmp.Or(c.err, io.EOF)) {
			t.Errorf("%s: then %v", name, again)
		}
		closeAhead(t, a)
	}
}

// endless is a stream that counts what is read of it.
type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	e.n += len(p)
	return len(p), nil
}

// TestAheadIsBounded leaves a stream in the middle.
func TestAheadIsBounded(t *testing.T) {
	var e endless
	a := ReadAhead(&e)
	if _, err := io.CopyN(io.Discard, a, 3*aheadSize); err != nil {
		t.Fatal(err)
	}
	closeAhead(t, a)
	if e.n > (3+aheadMax)*aheadSize {
		t.Errorf("%d bytes were read for %d", e.n, 3*aheadSize)
	}
}

// TestAheadPanic: a decoder's bug is the stream's error.
func TestAheadPanic(t *testing.T) {
	a := ReadAhead(readerFunc(func([]byte) (int, error) { panic("index out of range") }))
	if _, err := a.Read(make([]byte, 1)); err == nil {
		t.Error("no error")
	}
	closeAhead(t, a)
}

func closeAhead(t *testing.T, a *Ahead) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
