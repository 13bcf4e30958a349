package wire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

func TestKnownBytes(t *testing.T) {
	// Nix manual, "Nix Archive format": str("(") and the magic.
	for s, want := range map[string]string{
		"":              "\x00\x00\x00\x00\x00\x00\x00\x00",
		"(":             "\x01\x00\x00\x00\x00\x00\x00\x00(\x00\x00\x00\x00\x00\x00\x00",
		"contents":      "\x08\x00\x00\x00\x00\x00\x00\x00contents",
		"nix-archive-1": "\x0d\x00\x00\x00\x00\x00\x00\x00nix-archive-1\x00\x00\x00",
	} {
		if got := string(AppendString(nil, s)); got != want {
			t.Errorf("AppendString(%q) = %q, want %q", s, got, want)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	ints := []uint64{0, 1, 8, math.MaxUint32, math.MaxUint64}
	long := strings.Repeat("x", 3*firstChunk+5)
	texts := []string{"", "a", "1234567", "12345678", "123456789", "\x00\xff", long}
	for _, v := range ints {
		if err := w.Uint64(v); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range texts {
		if err := w.String(s); err != nil {
			t.Fatal(err)
		}
	}
	for name, r := range map[string]io.Reader{
		"whole":          bytes.NewReader(buf.Bytes()),
		"byte at a time": iotest.OneByteReader(bytes.NewReader(buf.Bytes())),
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(r)
			for _, want := range ints {
				if got, err := r.Uint64(); err != nil || got != want {
					t.Fatalf("got %d, %v, want %d", got, err, want)
				}
			}
			for _, want := range texts {
				if got, err := r.String(uint64(len(want))); err != nil || got != want {
					t.Fatalf("got %q, %v, want %q", got, err, want)
				}
			}
			if _, err := r.Uint64(); !errors.Is(err, io.EOF) {
				t.Fatalf("at the end: %v", err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     error
	}{
		{"empty", "", io.EOF},
		{"short length", "\x01\x00", io.ErrUnexpectedEOF},
		{"no content", "\x01\x00\x00\x00\x00\x00\x00\x00", io.ErrUnexpectedEOF},
		{"short content", "\x02\x00\x00\x00\x00\x00\x00\x00a", io.ErrUnexpectedEOF},
		{"no padding", "\x01\x00\x00\x00\x00\x00\x00\x00a", io.ErrUnexpectedEOF},
		{"short padding", "\x01\x00\x00\x00\x00\x00\x00\x00a\x00\x00", io.ErrUnexpectedEOF},
		{"padding", "\x01\x00\x00\x00\x00\x00\x00\x00a\x00\x00\x00\x00\x00\x00\x01", ErrPadding},
		{"too long", "\x65\x00\x00\x00\x00\x00\x00\x00", ErrTooLong},
		{"huge", "\xff\xff\xff\xff\xff\xff\xff\xff", ErrTooLong},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := NewReader(strings.NewReader(tt.in)).Bytes(100); !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// A length that lies may cost a small buffer, not the memory it claims.
func TestAllocationFollowsBytes(t *testing.T) {
	in := AppendUint64(nil, 1<<40)
	in = append(in, make([]byte, 1000)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := NewReader(bytes.NewReader(in)).Bytes(math.MaxUint64)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 4*firstChunk {
		t.Fatalf("allocated %d bytes for a string of 1000", got)
	}
}

func TestReadError(t *testing.T) {
	broken := errors.New("broken")
	r := io.MultiReader(strings.NewReader("\x10\x00\x00\x00\x00\x00\x00\x00abc"), iotest.ErrReader(broken))
	if _, err := NewReader(r).Bytes(100); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
}

func TestWriteError(t *testing.T) {
	pr, pw := io.Pipe()
	broken := errors.New("broken")
	pr.CloseWithError(broken)
	w := NewWriter(pw)
	if err := w.Uint64(1); !errors.Is(err, broken) {
		t.Errorf("Uint64: %v", err)
	}
	if err := w.String("x"); !errors.Is(err, broken) {
		t.Errorf("String: %v", err)
	}
}

// What Bytes accepts, AppendString reproduces byte for byte.
func FuzzBytes(f *testing.F) {
	seeds := [][]byte{
		AppendString(nil, ""), AppendString(nil, "("), AppendString(nil, "contents"),
		[]byte("\x01\x00\x00\x00\x00\x00\x00\x00a\x00\x00\x00\x00\x00\x00\x01"),
		[]byte("\xff\xff\xff\xff\xff\xff\xff\xff"),
	}
	if len(seeds) != 5 {
		f.Fatalf("%d seeds", len(seeds))
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		b, err := NewReader(r).Bytes(1 << 16)
		if err != nil {
			return
		}
		read := in[:len(in)-r.Len()]
		if out := AppendString(nil, string(b)); !bytes.Equal(out, read) {
			t.Fatalf("accepted %q, prints as %q", read, out)
		}
	})
}
