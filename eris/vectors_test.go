package eris_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20"

	"ersatz/eris"
)

var text = base32.StdEncoding.WithPadding(base32.NoPadding)

// blockMap is a Fetcher over a map. It does not check what it holds.
type blockMap struct {
	mu     sync.Mutex
	blocks map[eris.Ref][]byte
	asked  int
}

func (m *blockMap) Fetch(ctx context.Context, _ eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	for i, ref := range refs {
		if err := ctx.Err(); err != nil {
			return err
		}
		m.mu.Lock()
		m.asked++
		b, ok := m.blocks[ref]
		m.mu.Unlock()
		if !ok {
			continue
		}
		if err := got(i, b); err != nil {
			return err
		}
	}
	return nil
}

func (m *blockMap) put(b eris.Block) error {
	m.blocks[b.Ref] = bytes.Clone(b.Data)
	return nil
}

func newMap() *blockMap { return &blockMap{blocks: map[eris.Ref][]byte{}} }

type vector struct {
	file        string
	ID          int
	Type        string
	Description string
	Content     string
	Secret      string `json:"convergence-secret"`
	BlockSize   int    `json:"block-size"`
	URN         string
	Blocks      map[string]string
}

func (v vector) store(t *testing.T) *blockMap {
	t.Helper()
	m := newMap()
	for k, b := range v.Blocks {
		ref, err := eris.ParseRef(k)
		if err != nil {
			t.Fatal(err)
		}
		m.blocks[ref] = unbase32(t, b)
	}
	return m
}

func unbase32(t *testing.T, s string) []byte {
	t.Helper()
	b, err := text.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// load reads the vectors that a glob names and fails if there are not want.
func load(t testing.TB, glob string, want int) []vector {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", glob))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != want {
		t.Fatalf("%s: %d vectors, want %d", glob, len(names), want)
	}
	var vs []vector
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var r io.Reader = f
		if strings.HasSuffix(name, ".gz") {
			if r, err = gzip.NewReader(f); err != nil {
				t.Fatal(err)
			}
		}
		v := vector{file: filepath.Base(name)}
		if err := json.NewDecoder(r).Decode(&v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		vs = append(vs, v)
	}
	return vs
}

// decoder is a way to read a content.
type decoder func(context.Context, eris.ReadCap, eris.Fetcher, eris.ReaderOptions) ([]byte, error)

var decoders = map[string]decoder{
	"whole": reading(func(r *eris.Reader) ([]byte, error) { return io.ReadAll(r) }),
	"bytes": reading(func(r *eris.Reader) ([]byte, error) { return io.ReadAll(iotest.OneByteReader(r)) }),
	"write": reading(func(r *eris.Reader) ([]byte, error) {
		var b bytes.Buffer
		_, err := r.WriteTo(&b)
		return b.Bytes(), err
	}),
	"random": reading(readRandom),
	"seek":   reading(readSeeking),
	"fill":   readFilled,
}

func reading(how func(*eris.Reader) ([]byte, error)) decoder {
	return func(ctx context.Context, c eris.ReadCap, f eris.Fetcher, o eris.ReaderOptions) ([]byte, error) {
		r := eris.NewReader(ctx, c, f, o)
		defer r.Close()
		return how(r)
	}
}

// readRandom reads a content in pieces from its end to its start.
func readRandom(r *eris.Reader) ([]byte, error) {
	n, err := r.Length()
	if err != nil {
		return nil, err
	}
	out := make([]byte, n)
	rng := rand.New(rand.NewPCG(1, 2))
	for end := n; end > 0; {
		start := max(0, end-1-rng.Int64N(40_000))
		if _, err := r.ReadAt(out[start:end], start); err != nil {
			return nil, err
		}
		end = start
	}
	if m, err := r.ReadAt(make([]byte, 1), n); m != 0 || !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("ReadAt at the end: %d, %v", m, err)
	}
	return out, nil
}

// readSeeking reads the second half of a content, then the first.
func readSeeking(r *eris.Reader) ([]byte, error) {
	n, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if _, err := r.Seek(n/2, io.SeekStart); err != nil {
		return nil, err
	}
	tail, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if _, err := r.Seek(-n, io.SeekCurrent); err != nil {
		return nil, err
	}
	out := make([]byte, n/2)
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, err
	}
	return append(out, tail...), nil
}

func decode(t *testing.T, c eris.ReadCap, f eris.Fetcher, how decoder) ([]byte, error) {
	t.Helper()
	return how(t.Context(), c, f, eris.ReaderOptions{})
}

// byteByByte is how much is encoded and decoded a byte at a time, at most: all
// kinds of borders are in that, and the race detector makes it slow.
const byteByByte = 256 << 10

// checkEncode encodes content in one Write, byte by byte and by ReadFrom.
func checkEncode(t *testing.T, content []byte, size eris.BlockSize, secret eris.Secret, urn string, blocks map[eris.Ref][]byte) {
	t.Helper()
	for name, feed := range map[string]func(*eris.Encoder) error{
		"whole": func(e *eris.Encoder) error { _, err := e.Write(content); return err },
		"bytes": func(e *eris.Encoder) error {
			for i := range content {
				if _, err := e.Write(content[i : i+1]); err != nil {
					return err
				}
			}
			return nil
		},
		"read": func(e *eris.Encoder) error {
			_, err := e.ReadFrom(iotest.HalfReader(bytes.NewReader(content)))
			return err
		},
	} {
		if name == "bytes" && len(content) > byteByByte {
			continue
		}
		m := newMap()
		e := eris.NewEncoder(size, secret, m.put)
		if err := feed(e); err != nil {
			t.Fatal(err)
		}
		c, err := e.Finish()
		if err != nil {
			t.Fatal(err)
		}
		if c.URN() != urn {
			t.Fatalf("encode %s: %s, want %s", name, c.URN(), urn)
		}
		if blocks != nil && !maps.EqualFunc(m.blocks, blocks, bytes.Equal) {
			t.Fatalf("encode %s: blocks differ", name)
		}
	}
}

func TestPositiveVectors(t *testing.T) {
	for _, v := range slices.Concat(load(t, "eris-test-vector-positive-*.json", 9), load(t, "eris-test-vector-positive-*.json.gz", 2)) {
		t.Run(v.file, func(t *testing.T) {
			content := unbase32(t, v.Content)
			c, err := eris.ParseURN(v.URN)
			if err != nil {
				t.Fatal(err)
			}
			secret, err := eris.ParseSecret(v.Secret)
			if err != nil {
				t.Fatal(err)
			}
			m := v.store(t)
			checkEncode(t, content, c.Size, secret, v.URN, m.blocks)
			for name, how := range decoders {
				if got, err := decode(t, c, m, how); err != nil || !bytes.Equal(got, content) {
					t.Errorf("decode %s: %d bytes, %v; want %d", name, len(got), err, len(content))
				}
			}
		})
	}
}

// TestNegativeVectors wants the failure that each vector is there for.
func TestNegativeVectors(t *testing.T) {
	want := map[int]struct {
		is  error
		msg string
	}{
		13: {eris.ErrNotFound, ""},
		14: {eris.ErrCorrupt, "do not match"},
		15: {eris.ErrNotFound, ""},
		16: {eris.ErrCorrupt, "do not match"},
		18: {eris.ErrCorrupt, "root node"},
		19: {eris.ErrCorrupt, "last leaf"},
		20: {eris.ErrCorrupt, "wrong length"},
		21: {eris.ErrCorrupt, "wrong length"},
		22: {eris.ErrCorrupt, "last leaf"},
		24: {eris.ErrCorrupt, "after its last pair"},
	}
	for _, v := range load(t, "eris-test-vector-negative-*.json", len(want)) {
		t.Run(v.file, func(t *testing.T) {
			c, err := eris.ParseURN(v.URN)
			if err != nil {
				t.Fatal(err)
			}
			w, ok := want[v.ID]
			if !ok {
				t.Fatalf("no failure is expected of vector %d", v.ID)
			}
			for name, how := range decoders {
				_, err := decode(t, c, v.store(t), how)
				if !errors.Is(err, w.is) || !strings.Contains(err.Error(), w.msg) {
					t.Errorf("decode %s: %v, want %v (%s)", name, err, w.is, w.msg)
				}
			}
		})
	}
}

func TestLegacyVectors(t *testing.T) {
	for _, v := range load(t, "v0.3.0/*.json", 9) {
		t.Run(v.file, func(t *testing.T) {
			if _, err := eris.ParseURN(v.URN); err == nil {
				t.Error("ParseURN accepts a urn:erisx2:")
			}
			c, err := eris.ParseLegacyURN(v.URN)
			if err != nil {
				t.Fatal(err)
			}
			if c.URN() != v.URN {
				t.Errorf("printed as %s", c.URN())
			}
			content := unbase32(t, v.Content)
			for name, how := range decoders {
				if got, err := decode(t, c, v.store(t), how); err != nil || !bytes.Equal(got, content) {
					t.Errorf("decode %s: %d bytes, %v; want %d", name, len(got), err, len(content))
				}
			}
		})
	}
}

type generated struct {
	Vectors []struct {
		Name      string
		Size      int64          `json:"content-size"`
		BlockSize eris.BlockSize `json:"block-size"`
		Secret    string         `json:"convergence-secret-hex"`
		URN       string
	}
}

func loadGenerated(t *testing.T, name string, want int) generated {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var g generated
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Vectors) != want {
		t.Fatalf("%s: %d vectors, want %d", name, len(g.Vectors), want)
	}
	return g
}

// keystream returns a content that is defined by a name.
func keystream(t testing.TB, name string, size int64) io.Reader {
	t.Helper()
	key := blake2b.Sum256([]byte(name))
	c, err := chacha20.NewUnauthenticatedCipher(key[:], make([]byte, chacha20.NonceSize))
	if err != nil {
		t.Fatal(err)
	}
	return io.LimitReader(streamReader{c}, size)
}

type streamReader struct{ c *chacha20.Cipher }

func (s streamReader) Read(p []byte) (int, error) {
	clear(p)
	s.c.XORKeyStream(p, p)
	return len(p), nil
}

func TestGeneratedVectors(t *testing.T) {
	for _, v := range loadGenerated(t, "generated-eris-rs.json", 65).Vectors {
		t.Run(v.Name, func(t *testing.T) {
			content, err := io.ReadAll(keystream(t, v.Name, v.Size))
			if err != nil {
				t.Fatal(err)
			}
			var secret eris.Secret
			if _, err := hex.Decode(secret[:], []byte(v.Secret)); err != nil {
				t.Fatal(err)
			}
			checkEncode(t, content, v.BlockSize, secret, v.URN, nil)
			m := newMap()
			c, _, err := eris.Encode(bytes.NewReader(content), v.BlockSize, secret, m.put)
			if err != nil {
				t.Fatal(err)
			}
			for name, how := range decoders {
				if name == "bytes" && len(content) > byteByByte {
					continue
				}
				if got, err := decode(t, c, m, how); err != nil || !bytes.Equal(got, content) {
					t.Errorf("decode %s: %d bytes, %v; want %d", name, len(got), err, len(content))
				}
			}
		})
	}
}

// TestLargeContent encodes the large contents of the specification and decodes
// them again. 1 GiB is for the long run (ERSATZ_LONG=1); 256 GiB, the fourth,
// is for nobody.
func TestLargeContent(t *testing.T) {
	long := os.Getenv("ERSATZ_LONG") != ""
	for _, v := range loadGenerated(t, "large-content.json", 4).Vectors {
		t.Run(v.Name, func(t *testing.T) {
			switch {
			case v.Size > 1<<30:
				t.Skip("256 GiB takes a day")
			case v.Size == 1<<30 && !long, testing.Short():
				t.Skip("for the long run: ERSATZ_LONG=1")
			}
			m := newMap()
			c, n, err := eris.Encode(keystream(t, v.Name, v.Size), v.BlockSize, eris.Secret{}, m.put)
			if err != nil || n != v.Size {
				t.Fatalf("encoded %d bytes, %v", n, err)
			}
			if c.URN() != v.URN {
				t.Errorf("%s, want %s", c.URN(), v.URN)
			}
			r := eris.NewReader(t.Context(), c, m, eris.ReaderOptions{})
			defer r.Close()
			want, got := sha256.New(), sha256.New()
			if _, err := io.Copy(want, keystream(t, v.Name, v.Size)); err != nil {
				t.Fatal(err)
			}
			if n, err := r.WriteTo(got); err != nil || n != v.Size || !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
				t.Errorf("decoded %d bytes of %d, %v", n, v.Size, err)
			}
			if n, err := r.Length(); err != nil || n != v.Size {
				t.Errorf("length %d of %d, %v", n, v.Size, err)
			}
		})
	}
}
