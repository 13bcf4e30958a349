// Package compress names the compression methods of substitutes and opens
// streams of them. Decoders bound the memory that a stream can ask for; how
// much comes out is for the caller to bound.
package compress

import (
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Method is a compression method with its level.
type Method struct {
	Name  string // none, gzip, lzip, zstd
	Level int    // 0 for none
}

// levels are the methods that NewWriter knows.
var levels = map[string]struct{ min, max, standard int }{
	"none": {0, 0, 0},
	"gzip": {1, 9, 9},
	"lzip": {1, 9, 9},
	"zstd": {1, 19, 19},
}

// None is the method of a nar that is not compressed.
var None = Method{Name: "none"}

// ParseMethod reads METHOD or METHOD:LEVEL, and the level alone that `guix
// publish` allows, which means gzip, or no compression where it is 0.
func ParseMethod(s string) (Method, error) {
	name, text, given := strings.Cut(s, ":")
	if n, err := strconv.Atoi(s); err == nil {
		if n == 0 {
			return None, nil
		}
		name, text, given = "gzip", s, true
	}
	l, ok := levels[name]
	if !ok {
		return Method{}, fmt.Errorf("compression method %q is none of zstd, gzip, lzip and none", name)
	}
	if !given {
		return Method{name, l.standard}, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < l.min || n > l.max {
		return Method{}, fmt.Errorf("compression level %q: %s has %d to %d", text, name, l.min, l.max)
	}
	return Method{name, n}, nil
}

// String returns what ParseMethod reads.
func (m Method) String() string {
	if m.Level == 0 {
		return m.Name
	}
	return m.Name + ":" + strconv.Itoa(m.Level)
}

// Format returns the media type of a nar in this form, as ERISFormat has it:
// application/x-nix-archive+zstd-19. A level of 0 stands for an unknown one
// and is left out.
func (m Method) Format() string {
	const nar = "application/x-nix-archive"
	switch {
	case m.Name == "none":
		return nar
	case m.Level == 0:
		return nar + "+" + m.Name
	}
	return nar + "+" + m.Name + "-" + strconv.Itoa(m.Level)
}

// ParseFormat reads what Format prints, and nothing else.
func ParseFormat(s string) (Method, error) {
	rest, ok := strings.CutPrefix(s, "application/x-nix-archive")
	if !ok {
		return Method{}, fmt.Errorf("media type %q is no nar", s)
	}
	if rest == "" {
		return None, nil
	}
	name, level, leveled := strings.Cut(strings.TrimPrefix(rest, "+"), "-")
	if rest[0] != '+' || !Readable(name) || name == "none" {
		return Method{}, fmt.Errorf("media type %q: unknown compression", s)
	}
	m := Method{Name: name}
	if leveled {
		n, err := strconv.Atoi(level)
		if err != nil || n < 1 || strconv.Itoa(n) != level {
			return Method{}, fmt.Errorf("media type %q: compression level", s)
		}
		m.Level = n
	}
	return m, nil
}

// Options say how a stream is compressed. The zero Options are those of a
// stream of which nothing is known, whose reader waits.
type Options struct {
	// Size is how many bytes will be written, about: a hint, by which zstd
	// chooses its tables. The same level, Size and bytes give the same stream,
	// always. Default: unknown.
	Size int64
	// Threads is how many threads may compress the stream: see Threads. Default 1.
	Threads int
	// Spare is where a small stream takes its memory from and leaves it. Default:
	// each has its own.
	Spare *Spare
}

// Threads returns how many threads a stream of about size bytes can keep busy,
// 1 at least. One of zstd is cut into jobs from two on, of 32 MiB at level 19
// and 4 MiB at level 3, however many threads there are. In memory each thread
// then needs its tables (80 MiB at level 19), and the stream as much as its jobs
// at work and three more.
func (m Method) Threads(size int64) int {
	if m.Name != "zstd" {
		return 1
	}
	return zstdThreads(m.Level, size)
}

// NewWriter returns a writer that compresses into w. Closing it ends the
// stream and leaves w open.
func NewWriter(w io.Writer, m Method) (io.WriteCloser, error) {
	return NewWriterOptions(w, m, Options{})
}

// NewWriterOptions is NewWriter with Options.
func NewWriterOptions(w io.Writer, m Method, o Options) (io.WriteCloser, error) {
	switch m.Name {
	case "none":
		return nopCloser{w}, nil
	case "gzip":
		return gzip.NewWriterLevel(w, m.Level)
	case "lzip":
		return newLzipWriter(w, m.Level)
	case "zstd":
		return newZstdWriter(w, m.Level, o)
	}
	return nil, fmt.Errorf("compression method %q cannot be written", m.Name)
}

// ErrInterrupted is what Write and Close return after Interrupt, of methods
// that can be interrupted.
var ErrInterrupted = errors.New("compression interrupted")

// Interrupt makes Write and Close of what NewWriter returned return when they have
// done what they are at: some ms, or a job of each thread (Threads). Any goroutine
// may call it at any time. Close is still due.
func Interrupt(w io.WriteCloser) {
	if i, ok := w.(interface{ interrupt() }); ok {
		i.interrupt()
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// Bounds of the history that a stream makes its decoder keep, in bytes: zstd's
// levels up to 19 use 8 MiB at most, lzip -9 uses 32 MiB, xz -9 64 MiB.
const (
	maxWindow   = 32 << 20
	maxXZWindow = 64 << 20
)

// dictBudget bounds what the members or blocks of a stream make their decoder
// allocate: a few bytes can ask for the whole window, over and over, and keep a
// processor busy for nothing. Encoders put at least a window's content into a
// member that is not the last.
type dictBudget struct{ spent, content uint64 }

const (
	freeDicts       = 32 * maxXZWindow // bytes of dictionaries that need no content
	dictsPerContent = 16               // bytes of them per byte of content so far
)

func (b *dictBudget) spend(dict uint64) error {
	b.spent += dict
	if b.spent > freeDicts && (b.spent-freeDicts)/dictsPerContent > b.content {
		return fmt.Errorf("dictionaries of %d bytes for %d bytes of content", b.spent, b.content)
	}
	return nil
}

// Readable reports whether NewReader knows the method.
func Readable(name string) bool {
	switch name {
	case "none", "gzip", "lzip", "zstd", "xz", "bzip2":
		return true
	}
	return false
}

// Bound returns how many bytes a nar of narSize bytes has at most when it is
// compressed: no method makes what it cannot compress much larger than it was.
func Bound(narSize int64) int64 {
	if narSize < 0 || narSize > math.MaxInt64/2 {
		return math.MaxInt64
	}
	return narSize + narSize/16 + 64<<10
}

// NewReader returns a reader that decompresses r. A stream that is cut short,
// or followed by what is not another one, gives an error. Closing the reader
// frees its memory and leaves r open.
func NewReader(r io.Reader, name string) (io.ReadCloser, error) {
	switch name {
	case "none":
		return io.NopCloser(r), nil
	case "gzip":
		return gzip.NewReader(r)
	case "lzip":
		return io.NopCloser(newLzipReader(r)), nil
	case "zstd":
		return newZstdReader(r, zstd.WithDecoderConcurrency(1))
	case "xz":
		return io.NopCloser(newXZReader(r)), nil
	case "bzip2":
		return io.NopCloser(bzip2.NewReader(r)), nil
	}
	return nil, fmt.Errorf("compression method %q cannot be read", name)
}

// NewVerifiedReader is NewReader for a stream whose bytes somebody who is trusted
// has signed, and for who compares a hash of what comes out, so that the stream's
// own checksum need not be looked at.
//
// That of zstd is decoded by several goroutines, one of which tells sequences from
// what another copies: a fourth less work. Should there be a stream that makes the
// decoder panic, nobody could recover from that there, which one of strangers must
// not bring about. r is read by such a goroutine, up to the return of Close.
func NewVerifiedReader(r io.Reader, name string) (io.ReadCloser, error) {
	if name == "zstd" {
		return newZstdReader(r, zstd.WithDecoderConcurrency(2), zstd.IgnoreChecksum(true))
	}
	return NewReader(r, name)
}

func newZstdReader(r io.Reader, o ...zstd.DOption) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, append(o, zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))...)
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}
