package nar

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// fuzzSeeds are archives that are accepted and all that are refused.
func fuzzSeeds(f *testing.F) {
	var seeds [][]byte
	for _, n := range []node{smallItem, {}, {content: "x"}, {exec: true}, randomTree(rand.New(rand.NewPCG(1, 1)), 20)} {
		seeds = append(seeds, n.archive())
	}
	for _, h := range hostile {
		if len(h.archive) < 8<<10 {
			seeds = append(seeds, h.archive)
		}
	}
	if len(seeds) < 60 {
		f.Fatalf("%d seeds", len(seeds))
	}
	for _, s := range seeds {
		f.Add(s)
	}
}

// What Restore accepts, Dump of the restored tree writes again, byte for byte;
// what it refuses leaves nothing.
func FuzzRead(f *testing.F) {
	fuzzSeeds(f)
	root, path := tempRoot(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		info, err := Restore(bytes.NewReader(in), root, "x", RestoreOptions{MaxSize: 1 << 20})
		verified, verr := Verify(bytes.NewReader(in))
		if (err == nil) != (verr == nil || len(in) > 1<<20) {
			t.Fatalf("Restore: %v, Verify: %v", err, verr)
		}
		if err != nil {
			wantEmpty(t, path)
			return
		}
		var out bytes.Buffer
		dumped, err := Dump(&out, filepath.Join(path, "x"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), in) {
			t.Fatalf("accepted\n%q\ndumped\n%q", in, out.Bytes())
		}
		if info != dumped || info != verified {
			t.Fatalf("Restore %v, Dump %v, Verify %v", info, dumped, verified)
		}
		if err := RemoveAll(root, "x"); err != nil {
			t.Fatal(err)
		}
		wantEmpty(t, path)
	})
}

// The archive is a function of what List reports: it does not depend on how
// the stream is cut, and every refusal says where.
func FuzzVerify(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		whole, err := Verify(bytes.NewReader(in))
		h := NewHasher()
		h.Write(in)
		if err == nil && whole != h.Info() {
			t.Fatalf("%v, want %v", whole, h.Info())
		}
		var se *SyntaxError
		if err != nil && (!errors.As(err, &se) || se.Offset < 0 || se.Offset > int64(len(in))) {
			t.Fatalf("%v", err)
		}
		again, err2 := List(slowReader{bytes.NewReader(in)}, func(e Entry) error {
			if e.Size < 0 || e.Type == Symlink && e.Target == "" {
				t.Fatalf("%+v", e)
			}
			return nil
		})
		if again != whole || (err == nil) != (err2 == nil) || err != nil && err.Error() != err2.Error() {
			t.Fatalf("in pieces: %v, %v\nwhole: %v, %v", again, err2, whole, err)
		}
	})
}

// slowReader returns a few bytes at a time.
type slowReader struct{ r io.Reader }

func (s slowReader) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), 5)]) }
