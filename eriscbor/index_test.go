package eriscbor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"ersatz/eris"
	"ersatz/eriscbor"
)

// decode decodes a content from a bundle.
func decode(t *testing.T, x *eriscbor.Index, r io.ReaderAt, c eris.ReadCap) ([]byte, error) {
	t.Helper()
	reader := eris.NewReader(t.Context(), c, x.Fetcher(r), eris.ReaderOptions{})
	defer reader.Close()
	return io.ReadAll(reader)
}

// TestIndex decodes all vectors, of both block sizes, from one bundle.
func TestIndex(t *testing.T) {
	all := value{blocks: map[eris.Ref][]byte{}}
	list := vectors(t)
	for _, v := range list {
		for ref, block := range v.blocks {
			all.blocks[ref] = block
		}
		all.caps = append(all.caps, v.cap)
	}
	b := write(t, all)
	x, err := eriscbor.ReadIndex(bytes.NewReader(b), nil)
	if err != nil || x.Blocks() != len(all.blocks) || len(x.Caps()) != len(list) || x.Size() != int64(len(b)) {
		t.Fatalf("%+v, %v", x, err)
	}
	for i, v := range list {
		got, err := decode(t, x, bytes.NewReader(b), x.Caps()[i])
		if err != nil || !bytes.Equal(got, v.content) {
			t.Errorf("vector %d: %d bytes, not %d, %v", i, len(got), len(v.content), err)
		}
	}
}

// TestIndexWrong: a block that is wrong is told and missed, and one that becomes
// wrong afterwards is found out by who asks.
func TestIndexWrong(t *testing.T) {
	block, ref, c, _ := first(t)
	good := write(t, value{blocks: map[eris.Ref][]byte{ref: block}, caps: []eris.ReadCap{c}})
	bad := bytes.Clone(good)
	bad[100] ^= 1
	var told []string
	x, err := eriscbor.ReadIndex(bytes.NewReader(bad), func(err error) { told = append(told, err.Error()) })
	if err != nil || x.Blocks() != 0 || len(told) != 1 || !strings.Contains(told[0], ref.String()) {
		t.Errorf("%v, told %v", err, told)
	}
	if _, err := decode(t, x, bytes.NewReader(bad), c); !errors.Is(err, eris.ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
	if x, err = eriscbor.ReadIndex(bytes.NewReader(good), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := decode(t, x, bytes.NewReader(bad), c); !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("changed: %v", err)
	}
	if _, err := decode(t, x, bytes.NewReader(good[:500]), c); !errors.Is(err, eris.ErrCorrupt) || errors.Is(err, io.EOF) {
		t.Errorf("shrunk: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := x.Fetcher(bytes.NewReader(good)).Fetch(ctx, eris.Size1KiB, []eris.Ref{ref}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := eriscbor.ReadIndex(bytes.NewReader(good[:len(good)-1]), nil); !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("cut short: %v", err)
	}
}

// TestIndexTogether reads blocks of both sizes in turns, some of them wrong: these
// are told and missed, and all others are handed over, several at a time.
func TestIndexTogether(t *testing.T) {
	const blocks = 150
	var b bytes.Buffer
	w := eriscbor.NewWriter(&b)
	refs := map[eris.BlockSize][]eris.Ref{}
	var ends []int64
	for i := range blocks {
		size := eris.Size1KiB
		if i >= 70 && i < 90 || i%13 == 0 {
			size = eris.Size32KiB
		}
		block := bytes.Repeat([]byte{byte(i)}, int(size))
		ref := eris.BlockRef(block)
		if err := w.Block(ref, block); err != nil {
			t.Fatal(err)
		}
		refs[size] = append(refs[size], ref)
		ends = append(ends, w.Size())
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	bad := b.Bytes()
	var want []string
	for _, i := range []int{0, 1, 40, 75, 149} {
		bad[ends[i]-1] ^= 1
		want = append(want, fmt.Sprintf("bundle, before byte %d: ", ends[i]))
	}
	var told []string
	x, err := eriscbor.ReadIndex(bytes.NewReader(bad), func(err error) {
		if !errors.Is(err, eris.ErrCorrupt) {
			t.Error(err)
		}
		told = append(told, err.Error())
	})
	if err != nil || x.Blocks() != blocks-len(want) || len(told) != len(want) {
		t.Fatalf("%d blocks, told %q, %v", x.Blocks(), told, err)
	}
	for i, start := range want {
		if !strings.HasPrefix(told[i], start) {
			t.Errorf("told %q, want %q", told[i], start)
		}
	}
	f := x.Fetcher(bytes.NewReader(bad))
	came, most := 0, 0
	for size, refs := range refs {
		err := eris.FetchMany(t.Context(), f, size, refs, func(is []int, blocks [][]byte) (int, error) {
			most = max(most, len(is))
			for k, i := range is {
				if eris.BlockRef(blocks[k]) != refs[i] {
					t.Errorf("block %d of %v: wrong bytes", i, size)
				}
				came++
			}
			return len(is), nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if came != x.Blocks() || most != eris.Together(eris.Size1KiB) {
		t.Errorf("%d blocks came, %d at a time", came, most)
	}
}

// TestIndexCollision: blocks whose references begin alike are told apart.
func TestIndexCollision(t *testing.T) {
	block, ref, _, _ := first(t)
	other := bytes.Clone(block)
	other[0] ^= 1
	var b bytes.Buffer
	w := eriscbor.NewWriter(&b)
	if err := w.Block(ref, block); err != nil {
		t.Fatal(err)
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	x, err := eriscbor.ReadIndex(bytes.NewReader(b.Bytes()), nil)
	if err != nil {
		t.Fatal(err)
	}
	alike := ref
	alike[31] ^= 1
	asked := 0
	err = x.Fetcher(bytes.NewReader(b.Bytes())).Fetch(t.Context(), eris.Size1KiB, []eris.Ref{alike, ref}, func(i int, block []byte) error {
		asked++
		if eris.BlockRef(block) != []eris.Ref{alike, ref}[i] {
			return &eris.CorruptError{Ref: alike, Msg: "another one"}
		}
		return nil
	})
	if !errors.Is(err, eris.ErrCorrupt) || asked != 1 {
		t.Errorf("%v after %d", err, asked)
	}
}

// TestIndexRepeated: a block that a bundle has thousands of times is read some
// times only, if who asks for it finds it wrong; its neighbours are there.
func TestIndexRepeated(t *testing.T) {
	block, ref, _, _ := first(t)
	other := bytes.Clone(block)
	other[0] ^= 1
	var b bytes.Buffer
	w := eriscbor.NewWriter(&b)
	if err := errors.Join(w.Block(eris.BlockRef(other), other), w.Block(ref, block), w.Finish()); err != nil {
		t.Fatal(err)
	}
	one := 2 + len(ref) + 3 + len(block)
	end := b.Len() - 2
	many := slices.Concat(b.Bytes()[:end], bytes.Repeat(b.Bytes()[end-one:end], 5000), b.Bytes()[end:])
	x, err := eriscbor.ReadIndex(bytes.NewReader(many), nil)
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	wrong := &eris.CorruptError{Ref: ref, Msg: "no node"}
	err = x.Fetcher(bytes.NewReader(many)).Fetch(t.Context(), eris.Size1KiB, []eris.Ref{eris.BlockRef(other), ref}, func(i int, block []byte) error {
		if i == 0 {
			return nil
		}
		asked++
		return wrong
	})
	if !errors.Is(err, wrong) || asked == 0 || asked > 8 {
		t.Errorf("%v after %d", err, asked)
	}
}

// TestIndexMemory: what is held does not grow with the bytes of the blocks.
func TestIndexMemory(t *testing.T) {
	const blocks = 4000
	pipe := func() io.Reader {
		r, w := io.Pipe()
		go func() {
			b := eriscbor.NewWriter(w)
			block := make([]byte, eris.Size32KiB)
			for i := range blocks {
				copy(block, fmt.Sprint(i))
				if err := b.Block(eris.BlockRef(block), block); err != nil {
					w.CloseWithError(err)
					return
				}
			}
			w.CloseWithError(b.Finish())
		}()
		return r
	}
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if x, err := eriscbor.ReadIndex(pipe(), nil); err != nil || x.Blocks() != blocks {
				b.Fatalf("%v", err)
			}
		}
	})
	if got := result.AllocedBytesPerOp(); got > 3<<20 {
		t.Errorf("%d bytes are allocated for %d of blocks", got, blocks*int(eris.Size32KiB))
	}
}
