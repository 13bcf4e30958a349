package n2r

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"ersatz/eris"
)

// count fails a fuzz target that has lost its seeds.
func count(f *testing.F, n, want int) {
	if n != want {
		f.Fatalf("%d seeds, want %d", n, want)
	}
}

func frame(length uint32, n int) []byte {
	return append(binary.BigEndian.AppendUint32(nil, length), make([]byte, n)...)
}

// FuzzFrames: what is accepted is n frames of the right length, in order, and
// printing them again gives the same bytes.
func FuzzFrames(f *testing.F) {
	seeds := [][]byte{
		nil,
		frame(0, 0),
		frame(1024, 1024),
		frame(1024, 1023),
		frame(1023, 1023),
		frame(32768, 32768),
		frame(1<<31, 10),
		bytes.Repeat(frame(0, 0), 3),
		append(frame(1024, 1024), frame(0, 0)...),
		append(frame(0, 0), frame(1024, 1024)...),
		{0, 0, 4},
	}
	for n, s := range seeds {
		f.Add(s, n)
	}
	count(f, len(seeds), 11)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		n &= 7
		again := make([]byte, 0, len(b))
		next := 0
		got := func(i int, block []byte) error {
			if i < next || i >= n || len(block) != 1024 {
				t.Fatalf("block %d of %d after %d, %d bytes", i, n, next, len(block))
			}
			for ; next < i; next++ {
				again = append(again, 0, 0, 0, 0)
			}
			next = i + 1
			again = append(append(again, 0, 0, 4, 0), block...)
			return nil
		}
		err := new(frameReader).read(bytes.NewReader(b), eris.Size1KiB, make([]eris.Ref, n), new(pace), eris.One(got))
		switch {
		case err == nil:
			for ; next < n; next++ {
				again = append(again, 0, 0, 0, 0)
			}
			if !bytes.HasPrefix(b, again) {
				t.Fatalf("read %d bytes that are not the first of %d", len(again), len(b))
			}
		case !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, eris.ErrCorrupt):
			t.Fatal(err)
		}
	})
}

// FuzzQuery: one spelling for each reference.
func FuzzQuery(f *testing.F) {
	good := "urn:blake2b:" + eris.Ref{1, 2, 3}.String()
	seeds := []string{"", good, strings.ToLower(good), good + "A", good[:len(good)-1], "urn:blake2b:", "?" + good, good + "&x=y", "urn:eris:" + good[12:], good[:20] + "%41" + good[23:]}
	for _, s := range seeds {
		f.Add(s)
	}
	count(f, len(seeds), 10)
	f.Fuzz(func(t *testing.T, s string) {
		if ref, ok := parseQuery(s); ok && Path(ref) != BlockPath+"?"+s {
			t.Fatalf("two spellings of one reference: %q", s)
		}
	})
}

// FuzzRefs: what is accepted is the references, one after the other.
func FuzzRefs(f *testing.F) {
	seeds := [][]byte{nil, make([]byte, 31), make([]byte, 32), make([]byte, 33), make([]byte, 32*MaxBatch), make([]byte, 32*MaxBatch+1), []byte(strings.Repeat("x", 64))}
	for _, s := range seeds {
		f.Add(s)
	}
	count(f, len(seeds), 7)
	f.Fuzz(func(t *testing.T, b []byte) {
		body := http.MaxBytesReader(nil, io.NopCloser(bytes.NewReader(b)), MaxBatch*int64(refSize))
		refs, status, msg := new(query).read(body)
		if status != http.StatusOK {
			if status < 400 || status > 499 || msg == "" || refs != nil {
				t.Fatalf("%d %q, %d references", status, msg, len(refs))
			}
			return
		}
		again := make([]byte, 0, len(b))
		for _, ref := range refs {
			again = append(again, ref[:]...)
		}
		if !bytes.Equal(again, b) || len(refs) == 0 || len(refs) > MaxBatch {
			t.Fatalf("%d references of %d bytes", len(refs), len(b))
		}
	})
}
