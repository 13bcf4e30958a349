package n2r

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"ersatz/eris"
)

// line gives bytes by pieces, after a time each.
type line struct {
	r     io.Reader
	piece int
	wait  func(n int) time.Duration // before piece n
	n     int
}

func (l *line) Read(p []byte) (int, error) {
	time.Sleep(l.wait(l.n))
	l.n++
	return l.r.Read(p[:min(len(p), l.piece)])
}

// Blocks that come soon are handed over by as many as can be hashed at once, and
// those that do not come as they are.
func TestFramesTogether(t *testing.T) {
	const n = 30
	one := frame(32<<10, 32<<10)
	for _, c := range []struct {
		name string
		wait func(int) time.Duration
		want string // blocks in each call
	}{
		{"fast", func(int) time.Duration { return 0 }, "[1 2 4 8 8 7]"},
		{"in time", func(int) time.Duration { return time.Millisecond }, "[1 2 4 8 8 7]"},
		{"slow", func(int) time.Duration { return time.Second }, "[1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1]"},
		{"slow from the 8th on", func(n int) time.Duration {
			if n < 7 {
				return 0
			}
			return 20 * time.Millisecond
		}, "[1 2 4 3 1 2 3 1 2 3 1 2 3 1 1]"},
		{"much slower from the 8th on", func(n int) time.Duration {
			if n < 7 {
				return 0
			}
			return 8 * time.Second
		}, "[1 2 4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls, all []int
				r := &line{r: bytes.NewReader(bytes.Repeat(one, n)), piece: len(one), wait: c.wait}
				err := new(frameReader).read(r, eris.Size32KiB, make([]eris.Ref, n), new(pace), func(is []int, blocks [][]byte) (int, error) {
					calls, all = append(calls, len(blocks)), append(all, is...)
					return len(is), nil
				})
				if err != nil || fmt.Sprint(calls) != c.want {
					t.Errorf("%v, want %s; %v", calls, c.want, err)
				}
				for i, got := range all {
					if i != got {
						t.Fatalf("block %d where %d should be", got, i)
					}
				}
			})
		})
	}
}

// What the answers before have shown holds for the next one, until blocks are late.
func TestFramesNextAnswer(t *testing.T) {
	const n = 12
	synctest.Test(t, func(t *testing.T) {
		p := new(pace)
		for k, c := range []struct {
			size eris.BlockSize
			wait time.Duration // before each block
			want string        // blocks in each call
		}{
			{eris.Size32KiB, time.Millisecond, "[1 2 4 5]"},
			{eris.Size32KiB, time.Millisecond, "[5 7]"},
			{eris.Size32KiB, time.Millisecond, "[7 5]"},
			{eris.Size1KiB, time.Millisecond, "[12]"},
			{eris.Size32KiB, 20 * time.Millisecond, "[3 1 2 3 1 2]"},
			{eris.Size32KiB, time.Second, "[1 1 1 1 1 1 1 1 1 1 1 1]"},
			{eris.Size32KiB, time.Millisecond, "[1 2 4 5]"},
		} {
			var calls []int
			one := frame(uint32(c.size), int(c.size))
			r := &line{r: bytes.NewReader(bytes.Repeat(one, n)), piece: len(one), wait: func(int) time.Duration { return c.wait }}
			err := new(frameReader).read(r, c.size, make([]eris.Ref, n), p, func(is []int, _ [][]byte) (int, error) {
				calls = append(calls, len(is))
				return len(is), nil
			})
			if err != nil || fmt.Sprint(calls) != c.want {
				t.Errorf("answer %d: %v, want %s; %v", k, calls, c.want, err)
			}
		}
	})
}

// However the bytes come, and where the blocks before a fault are, they are handed
// over before it is told.
func TestFramesInPieces(t *testing.T) {
	good := bytes.Repeat(append(frame(0, 0), frame(1024, 1024)...), 300)
	refs := make([]eris.Ref, 600)
	for name, via := range map[string]func(io.Reader) io.Reader{
		"byte by byte": iotest.OneByteReader, "halves": iotest.HalfReader, "with the end": iotest.DataErrReader,
	} {
		for _, c := range []struct {
			text   []byte
			blocks int
			want   error
		}{
			{good, 300, nil},
			{good[:len(good)-1], 299, io.ErrUnexpectedEOF},
			{append(good[:len(good)/2:len(good)/2], 0, 0, 128, 0), 150, eris.ErrCorrupt},
		} {
			blocks := 0
			err := new(frameReader).read(via(bytes.NewReader(c.text)), eris.Size1KiB, refs, new(pace), func(is []int, _ [][]byte) (int, error) {
				for _, i := range is {
					if blocks++; i != 2*blocks-1 {
						t.Fatalf("%s: block %d is for %d", name, blocks, i)
					}
				}
				return len(is), nil
			})
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || blocks != c.blocks {
				t.Errorf("%s: %d blocks, %v; want %d, %v", name, blocks, err, c.blocks, c.want)
			}
		}
	}
}

// The error of got ends the answer.
func TestFramesRefused(t *testing.T) {
	stop, calls := errors.New("stop"), 0
	r := bytes.NewReader(bytes.Repeat(frame(1024, 1024), 5))
	err := new(frameReader).read(r, eris.Size1KiB, make([]eris.Ref, 5), new(pace), func([]int, [][]byte) (int, error) {
		calls++
		return 0, stop
	})
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

// To read one block more allocates nothing.
func TestFramesAllocs(t *testing.T) {
	text, refs := bytes.Repeat(frame(1024, 1024), MaxBatch), make([]eris.Ref, MaxBatch)
	r, f, p := bytes.NewReader(nil), new(frameReader), new(pace)
	got := func(is []int, _ [][]byte) (int, error) { return len(is), nil }
	if n := testing.AllocsPerRun(10, func() {
		r.Reset(text)
		if err := f.read(r, eris.Size1KiB, refs, p, got); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
