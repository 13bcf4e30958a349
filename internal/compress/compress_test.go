package compress_test

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/iotest"

	"ersatz/internal/compress"
)

// content is compressible and not trivial.
func content(n int) []byte {
	rng := rand.New(rand.NewPCG(3, 4))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "line %d of a text that repeats %x\n", rng.IntN(500), rng.IntN(1<<16))
	}
	return b.Bytes()[:n]
}

func pack(t testing.TB, data []byte, m compress.Method) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := compress.NewWriter(&b, m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpack(r io.Reader, name string) ([]byte, error) {
	z, err := compress.NewReader(r, name)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(z)
}

var methods = []compress.Method{
	compress.None, {Name: "gzip", Level: 9}, {Name: "lzip", Level: 1}, {Name: "lzip", Level: 9},
	{Name: "zstd", Level: 3}, {Name: "zstd", Level: 19},
}

func TestRoundTrip(t *testing.T) {
	for _, m := range methods {
		for _, n := range []int{0, 1, 1000, 300_000} {
			data := content(n)
			packed := pack(t, data, m)
			if got, err := unpack(bytes.NewReader(packed), m.Name); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s, %d bytes: %d back, %v", m, n, len(got), err)
			}
			if got, err := unpack(iotest.OneByteReader(bytes.NewReader(packed)), m.Name); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s, %d bytes, one at a time: %d back, %v", m, n, len(got), err)
			}
		}
	}
}

func TestBroken(t *testing.T) {
	data := content(100_000)
	for _, m := range methods[1:] {
		packed := pack(t, data, m)
		for _, cut := range []int{1, 5, len(packed) / 2, len(packed) - 9, len(packed) - 1} {
			if _, err := unpack(bytes.NewReader(packed[:cut]), m.Name); err == nil {
				t.Errorf("%s: cut at %d of %d: no error", m, cut, len(packed))
			}
		}
		if _, err := unpack(bytes.NewReader(append(bytes.Clone(packed), "garbage, and more of it"...)), m.Name); err == nil {
			t.Errorf("%s: garbage at the end: no error", m)
		}
		twice := append(bytes.Clone(packed), packed...)
		if got, err := unpack(bytes.NewReader(twice), m.Name); err != nil || len(got) != 2*len(data) {
			t.Errorf("%s: two streams: %d bytes, %v", m, len(got), err)
		}
	}
}

// tool runs a program of the system, or skips.
func tool(t *testing.T, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out
}

// TestTools exchanges streams with the reference programs, both ways.
func TestTools(t *testing.T) {
	data := content(1_000_000)
	for method, program := range map[string]string{"gzip": "gzip", "lzip": "lzip", "zstd": "zstd", "xz": "xz", "bzip2": "bzip2"} {
		t.Run(program, func(t *testing.T) {
			packed := tool(t, data, program, "-c", "-9")
			if got, err := unpack(bytes.NewReader(packed), method); err != nil || !bytes.Equal(got, data) {
				t.Errorf("from %s: %d bytes, %v", program, len(got), err)
			}
			m, err := compress.ParseMethod(method)
			if err != nil {
				return // only read
			}
			if got := tool(t, pack(t, data, m), program, "-dc"); !bytes.Equal(got, data) {
				t.Errorf("to %s: %d bytes", program, len(got))
			}
		})
	}
}

// TestReferenceSize holds libzstd to the size of the reference program.
func TestReferenceSize(t *testing.T) {
	if !compress.Native {
		t.Skip("built without cgo: the Go encoder is larger by about 14 %")
	}
	data, err := os.ReadFile(filepath.Join("..", "..", "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, content(5_000_000)...)
	want := len(tool(t, data, "zstd", "-19", "-c"))
	got := len(pack(t, data, compress.Method{Name: "zstd", Level: 19}))
	if d := got - want; d < -want/500 || d > want/500 {
		t.Errorf("%d bytes, zstd -19 makes %d", got, want)
	}
	// A stream that is cut into jobs may be smaller, not larger.
	data = append(data, content(10_000_000)...)
	m := compress.Method{Name: "zstd", Level: 3}
	if m.Threads(int64(len(data))) < 2 {
		t.Fatal("too small for jobs")
	}
	var b bytes.Buffer
	w, err := compress.NewWriterOptions(&b, m, compress.Options{Size: int64(len(data))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if want := len(tool(t, data, "zstd", "-3", "-c")); b.Len()-want > want/500 {
		t.Errorf("%d bytes, zstd -3 makes %d", b.Len(), want)
	}
}

func TestParseMethod(t *testing.T) {
	for s, want := range map[string]string{
		"zstd": "zstd:19", "zstd:3": "zstd:3", "gzip": "gzip:9", "lzip:9": "lzip:9", "none": "none", "0": "none", "5": "gzip:5",
		"zstd:0": "", "zstd:20": "", "xz": "", "": "", "gzip:": "", "gzip:x": "", "none:1": "",
	} {
		m, err := compress.ParseMethod(s)
		if (err != nil) != (want == "") || err == nil && m.String() != want {
			t.Errorf("%q: %q, %v", s, m, err)
		}
		if err == nil {
			if f, err := compress.ParseFormat(m.Format()); err != nil || f != m {
				t.Errorf("%q: format %q read as %v, %v", s, m.Format(), f, err)
			}
		}
	}
	for _, s := range []string{"", "application/x-nix-archive+", "application/x-nix-archive-zstd", "application/x-nix-archive+none", "application/x-nix-archive+zstd-0"} {
		if m, err := compress.ParseFormat(s); err == nil {
			t.Errorf("%q: %v", s, m)
		}
	}
}

// FuzzNewReader reads anything by any method. The law: it ends, without a
// panic, and never keeps more history than the limits allow; what it accepts,
// it accepts a byte at a time too, and NewVerifiedReader, which need not look at
// checksums, does as well.
func FuzzNewReader(f *testing.F) {
	names := []string{"gzip", "lzip", "zstd", "xz", "bzip2"}
	seeds := 0
	add := func(i int, b []byte) {
		f.Add(i, b)
		seeds++
	}
	for i, name := range names {
		packed := packWith(f, content(2000), name)
		add(i, packed)
		add(i, packed[:len(packed)-1])
		add(i, append(bytes.Clone(packed), packed...))
		add(i, packWith(f, nil, name))
		if g, ok := greedy()[name]; ok {
			add(i, g)
		}
	}
	add(0, packWith(f, content(100), "stored"))
	if seeds != 24 {
		f.Fatalf("%d seeds", seeds)
	}
	f.Fuzz(func(t *testing.T, i int, data []byte) {
		const limit = 64 << 10
		name := names[uint(i)%uint(len(names))]
		read := func(open func(io.Reader, string) (io.ReadCloser, error), r io.Reader) ([]byte, error) {
			z, err := open(r, name)
			if err != nil {
				return nil, err
			}
			defer z.Close()
			return io.ReadAll(io.LimitReader(z, limit))
		}
		whole, err := read(compress.NewReader, bytes.NewReader(data))
		verified, err3 := read(compress.NewVerifiedReader, bytes.NewReader(data))
		if err == nil && (err3 != nil || !bytes.Equal(whole, verified)) {
			t.Fatalf("%s: %d bytes; verified %d, %v", name, len(whole), len(verified), err3)
		}
		pieces, err2 := read(compress.NewReader, iotest.OneByteReader(bytes.NewReader(data)))
		if (err == nil) != (err2 == nil) || err == nil && !bytes.Equal(whole, pieces) {
			t.Fatalf("%s: %d bytes, %v; a byte at a time %d, %v", name, len(whole), err, len(pieces), err2)
		}
	})
}

// FuzzParseMethod: what is printed is read as the same method, in the flag's
// form and in ERISFormat's, which has one spelling.
func FuzzParseMethod(f *testing.F) {
	seeds := []string{
		"zstd", "zstd:19", "zstd:019", "gzip:9", "lzip:1", "none", "0", "9", "-1", "xz", "", ":", "none:0", "zstd:+3",
		"application/x-nix-archive", "application/x-nix-archive+zstd-19", "application/x-nix-archive+xz",
		"application/x-nix-archive+zstd-019", "application/x-nix-archive+zstd-+3", "application/x-nix-archive+none",
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := compress.ParseMethod(s); err == nil {
			if again, err := compress.ParseMethod(m.String()); err != nil || again != m {
				t.Fatalf("%q: %q, read as %v, %v", s, m, again, err)
			}
			if again, err := compress.ParseFormat(m.Format()); err != nil || again != m {
				t.Fatalf("%q: %q, read as %v, %v", s, m.Format(), again, err)
			}
		}
		if m, err := compress.ParseFormat(s); err == nil && m.Format() != s {
			t.Fatalf("two spellings of one format: %q and %q", s, m.Format())
		}
	})
}

// What cannot be compressed stays below Bound in every method.
func TestBound(t *testing.T) {
	for _, n := range []int{0, 1, 100_000} {
		content := make([]byte, n)
		rand.NewChaCha8([32]byte{1}).Read(content) // never fails
		for _, m := range []compress.Method{compress.None, {Name: "zstd", Level: 1}, {Name: "gzip", Level: 1}, {Name: "lzip", Level: 1}} {
			var b bytes.Buffer
			w, err := compress.NewWriter(&b, m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if int64(b.Len()) > compress.Bound(int64(n)) {
				t.Errorf("%s: %d bytes become %d", m, n, b.Len())
			}
		}
	}
	for _, n := range []int64{-1, math.MaxInt64, math.MaxInt64 - 1} {
		if compress.Bound(n) != math.MaxInt64 {
			t.Errorf("bound of %d bytes is %d", n, compress.Bound(n))
		}
	}
}
