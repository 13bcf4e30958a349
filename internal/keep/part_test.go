package keep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/compress"
)

// from is a source of a thing's blocks that counts what it is asked for.
type from struct {
	x    *thing
	stop int // after so many blocks it fails; 0: never

	mu    sync.Mutex
	asked map[eris.Ref]int
	n     int
}

var errStop = errors.New("source is gone")

func (f *from) Fetch(ctx context.Context, _ eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	for i, ref := range refs {
		f.mu.Lock()
		f.n++
		over := f.stop > 0 && f.n > f.stop
		if !over && f.asked != nil {
			f.asked[ref]++
		}
		f.mu.Unlock()
		if over {
			return errStop
		}
		if err := got(i, f.x.blocks[ref]); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// A Filler fills a part, in several goes, and nothing comes twice.
func TestFillerFills(t *testing.T) {
	for _, size := range []int{0, 500, 9_000, 200_000, 17 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dir := t.TempDir()
			x := makeThing(t, 0, size)
			asked := map[eris.Ref]int{}
			for stop := len(x.nodes)/3 + 1; ; stop += len(x.nodes) / 3 {
				s := open(t, dir, Options{})
				p := part(t, s, x)
				f := eris.NewFiller(x.ReadCap, p, eris.FillOptions{MaxLength: compress.Bound(x.NarSize)})
				src := &from{x: x, stop: len(x.nodes)/3 + 1, asked: asked}
				n, err := f.Run(t.Context(), src)
				if errors.Is(err, errStop) {
					if h, ok := s.Blocks(nil).Have(x.NarHash); len(x.nodes) > 3 && (!ok || !h.Part || h.ReadCap != x.ReadCap) {
						t.Errorf("%+v, %v", h, ok)
					}
					if n := served(t, s.Blocks(nil), x); n < min(len(asked), 1) || n > len(asked) {
						t.Errorf("%d blocks are served, %d have come", n, len(asked))
					}
					closing(t, p)
					closing(t, s)
					if stop > 4*len(x.nodes)+8 {
						t.Fatal("no end")
					}
					continue
				}
				if err != nil || n != int64(len(x.file)) {
					t.Fatalf("%d bytes, %v", n, err)
				}
				p.Finish(n)
				if _, err := p.Commit(t.Context(), x.Item, f.Tree); err != nil {
					t.Fatal(err)
				}
				closing(t, p)
				kept(t, s, x)
				if n := served(t, s.Blocks(nil), x); n != len(x.nodes) {
					t.Errorf("%d blocks of %d", n, len(x.nodes))
				}
				closing(t, s)
				break
			}
			for ref, n := range asked {
				if n != 1 {
					t.Errorf("block %s came %d times", ref, n)
				}
			}
			if f := faults(t, dir, CheckOptions{}); f != "" {
				t.Error(f)
			}
		})
	}
}

// What rots in a part, or was torn, is never served and never committed.
func TestRottenPart(t *testing.T) {
	dir := t.TempDir()
	x := makeThing(t, 0, 2<<20)
	s := open(t, dir, Options{})
	defer closing(t, s)
	p := part(t, s, x)
	fill(t, p, x)
	damage(t, filepath.Join(p.dir, contentFile), 100_000) // leaf 3
	if n := served(t, s.Blocks(nil), x); n != len(x.nodes)-1 {
		t.Errorf("%d blocks of %d", n, len(x.nodes))
	}
	damage(t, filepath.Join(p.dir, nodesFile), nodeHead+5*64) // the reference of leaf 5, in the root
	if n := served(t, s.Blocks(nil), x); n != len(x.nodes)-3 {
		t.Errorf("%d blocks of %d", n, len(x.nodes))
	}
	closing(t, p)
	for _, tear := range []func(name string) error{
		func(string) error { return nil },
		func(name string) error { return os.Truncate(name, 1000) },
		func(name string) error { return os.WriteFile(name, random(1, 50_000), 0o600) },
		os.Remove,
	} {
		for _, name := range []string{contentFile, nodesFile, aboutFile} {
			if err := tear(filepath.Join(p.dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		p = part(t, s, x)
		f := eris.NewFiller(x.ReadCap, p, eris.FillOptions{})
		src := &from{x: x, asked: map[eris.Ref]int{}}
		n, err := f.Run(t.Context(), src)
		if err != nil || n != int64(len(x.file)) || len(src.asked) == 0 {
			t.Fatalf("%d bytes, %d blocks asked for, %v", n, len(src.asked), err)
		}
		b := make([]byte, n)
		if _, err := p.content.ReadAt(b, 0); err != nil || !bytes.Equal(b, x.file) {
			t.Error("wrong bytes")
		}
		closing(t, p)
	}
}

// Parts that nobody may have twice, and those of something else.
func TestPartUse(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	x, y := makeThing(t, 0, 100_000), makeThing(t, 1, 100_000)
	p := part(t, s, x)
	if _, err := s.Part(p.id, x.about()); !errors.Is(err, ErrBusy) {
		t.Errorf("twice: %v", err)
	}
	if _, err := s.Part(p.id, y.about()); err == nil || errors.Is(err, ErrBusy) {
		t.Errorf("of something else: %v", err)
	}
	if _, err := s.Part("../../x", x.about()); err == nil {
		t.Error("a name of its own")
	}
	evil := x.about()
	evil.Item.Server = "a\nb"
	if _, err := s.Part(BlocksID(x.ReadCap), evil); !errors.Is(err, errRecord) {
		t.Errorf("two lines: %v", err)
	}
	node := make([]byte, eris.Size32KiB)
	for _, c := range []struct {
		level int
		index int64
		node  []byte
	}{
		{-1, 0, node}, {2, 0, node}, {256, 0, node}, {0, -1, node}, {0, 1 << 40, node}, {1, 1 << 60, node}, {0, 0, node[1:]}, {0, 0, nil},
	} {
		if err := p.Store(c.level, c.index, c.node); err == nil {
			t.Errorf("stored node %d of level %d", c.index, c.level)
		}
		if found, err := p.Load(c.level, c.index, c.node); err == nil || found {
			t.Errorf("loaded node %d of level %d", c.index, c.level)
		}
		if len(c.node) == len(node) {
			p.Done(c.level, c.index, eris.Ref{1}, eris.Key{})
		}
	}
	if _, err := p.Append([]byte{1}); err == nil {
		t.Error("a nar among blocks")
	}
	closing(t, p)
	closing(t, p)
	if _, err := p.Commit(t.Context(), x.Item, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if err := p.Reset(); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	a := x.about()
	if p, err := s.Part(NarID(a), a); err != nil {
		t.Error(err)
	} else {
		if err := p.Store(0, 0, node); err == nil {
			t.Error("a block in a nar")
		}
		if _, err := p.Append(make([]byte, compress.Bound(x.NarSize)+1)); !errors.Is(err, eris.ErrTooLong) {
			t.Errorf("too long: %v", err)
		}
		closing(t, p)
	}
	huge := x.about() // whoever makes a narinfo up says what he likes
	huge.Item.NarSize, huge.Item.ReadCap.Level = 1<<60, 6
	if p, err := s.Part(BlocksID(huge.Item.ReadCap), huge); err != nil {
		t.Error(err)
	} else {
		if err := p.Store(0, 1<<26, node); !errors.Is(err, eris.ErrTooLong) {
			t.Errorf("a leaf at 2 TiB: %v", err)
		}
		if most := int64(1 << 40); p.Limit() != most {
			t.Errorf("a content may have %d bytes", p.Limit())
		}
		closing(t, p)
	}
	ids := map[PartID]bool{NarID(a): true}
	for _, change := range []func(*About){
		func(a *About) { a.ETag = "x" }, func(a *About) { a.FileSize++ }, func(a *About) { a.Item.Server = "b" },
		func(a *About) { a.Item.Method = "gzip" }, func(a *About) { a.Item.NarHash[0]++ },
	} {
		b := a
		change(&b)
		if ids[NarID(b)] {
			t.Error("one name for two nars")
		}
		ids[NarID(b)] = true
	}
}

// What of a part cannot be read stands in nobody's way.
func TestBrokenPartIsNotGoneOnWith(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	x := makeThing(t, 0, 1000)
	a := About{Item: x.Item, ETag: `"1"`, FileSize: int64(len(x.file))}
	for range 2 {
		p, err := s.Part(NarID(a), a)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Append(x.file[:10]); err != nil {
			t.Error(err)
		}
		closing(t, p)
		if left := s.Left(x.NarHash); len(left) != 1 {
			t.Errorf("%+v is left", left)
		}
		if err := os.WriteFile(filepath.Join(p.dir, aboutFile), []byte("ersatz"), 0o644); err != nil {
			t.Fatal(err)
		}
		if left := s.Left(x.NarHash); len(left) != 0 {
			t.Errorf("of what cannot be read: %+v", left)
		}
	}
}

// A nar goes on where the process that was killed has stopped.
func TestNarGoesOn(t *testing.T) {
	dir := t.TempDir()
	x := makeThing(t, 0, 200_000)
	a := About{Item: x.Item, ETag: `"1"`, FileSize: int64(len(x.file))}
	a.Item.ReadCap, a.Item.Signed = eris.ReadCap{}, false
	for from := 0; from < len(x.file); {
		s := open(t, dir, Options{})
		left := s.Left(x.NarHash)
		if (from > 0) != (len(left) == 1 && NarID(left[0]) == NarID(a)) {
			t.Errorf("%d bytes have come: %+v is left", from, left)
		}
		p, err := s.Part(NarID(a), a)
		if err != nil {
			t.Fatal(err)
		}
		if left := s.Left(x.NarHash); len(left) != 0 {
			t.Errorf("in use: %+v is left", left)
		}
		if p.Size() != int64(from) {
			t.Fatalf("goes on at %d, not %d", p.Size(), from)
		}
		n, err := p.Append(x.file[from:min(from+70_000, len(x.file))])
		if err != nil {
			t.Fatal(err)
		}
		if from += n; from == len(x.file) {
			p.Finish(p.Size())
			i, err := p.Commit(t.Context(), a.Item, nil)
			if err != nil || i.ReadCap != x.ReadCap || i.Signed || i.Format != "application/x-nix-archive+zstd-1" {
				t.Errorf("%+v, %v", i, err)
			}
			kept(t, s, x)
		}
		if err := errors.Join(p.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// Readers follow the front, through gaps and up to the padding.
func TestReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), Options{})
		defer closing(t, s)
		x := makeThing(t, 0, 400_000)
		p := part(t, s, x)
		size := int64(eris.Size32KiB)
		type result struct {
			b   []byte
			err error
		}
		results := make(chan result, 3)
		var readers [3]io.ReadCloser
		for i := range readers {
			readers[i] = p.Reader(t.Context())
			go func() {
				b, err := io.ReadAll(readers[i])
				results <- result{b, err}
			}()
		}
		last := int64(len(x.file)) / size
		leaf := func(i int64) {
			t.Helper()
			if err := p.Store(0, i, x.nodes[i].Node); err != nil {
				t.Fatal(err)
			}
		}
		front := func(want int64) {
			t.Helper()
			if got := p.Size(); got != want {
				t.Errorf("front at %d, not %d", got, want)
			}
		}
		leaf(0)
		front(0) // it may be the last, with its padding
		leaf(2)
		front(size)
		leaf(1)
		front(2 * size)
		for i := int64(3); i <= last; i++ {
			leaf(i)
		}
		front(last * size)
		synctest.Wait()
		p.Finish(int64(len(x.file)))
		front(int64(len(x.file)))
		for range readers {
			if r := <-results; r.err != nil || !bytes.Equal(r.b, x.file) {
				t.Errorf("%d bytes, %v", len(r.b), r.err)
			}
		}
		// One that begins late, and goes on when the part was closed.
		r := p.Reader(t.Context())
		closing(t, p)
		if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, x.file) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		for _, r := range append(readers[:], r) {
			closing(t, r)
			closing(t, r)
		}
		if _, err := p.Reader(t.Context()).Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
			t.Errorf("after all have gone: %v", err)
		}
	})
}

// Readers end with the reason.
func TestReaderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), Options{})
		defer closing(t, s)
		x := makeThing(t, 0, 400_000)
		a := x.about()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for _, c := range []struct {
			want error
			do   func(p *Part) error
		}{
			{errStop, func(p *Part) error { p.Fail(errStop); p.Finish(1); return nil }},
			{ErrReset, (*Part).Reset},
			{ErrClosed, (*Part).Close},
			{context.Canceled, func(*Part) error { cancel(); return nil }},
		} {
			p, err := s.Part(NarID(a), a)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Reset(); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Append(x.file[:1000]); err != nil {
				t.Fatal(err)
			}
			r := p.Reader(ctx)
			done := make(chan error)
			n := 0
			go func() {
				b, err := io.ReadAll(r)
				n = len(b)
				done <- err
			}()
			synctest.Wait()
			if err := c.do(p); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !errors.Is(err, c.want) || n != 1000 {
				t.Errorf("%d bytes, %v, want %v", n, err, c.want)
			}
			if _, err := r.Read(make([]byte, 1)); !errors.Is(err, c.want) {
				t.Errorf("again: %v", err)
			}
			closing(t, r)
			closing(t, p)
		}
		p, err := s.Part(NarID(a), a)
		if err != nil {
			t.Fatal(err)
		}
		defer closing(t, p)
		p.Fail(errStop)
		if _, err := p.Append([]byte{1}); !errors.Is(err, errStop) {
			t.Errorf("after Fail: %v", err)
		}
		if err := p.Reset(); err != nil || p.Size() != 0 {
			t.Error(p.Size(), err)
		}
		if _, err := p.Append(x.file); err != nil {
			t.Error(err)
		}
	})
}

// An index of blocks is served from while parts come, go and are committed.
func TestConcurrent(t *testing.T) {
	s := open(t, t.TempDir(), Options{Quota: 3 << 20})
	defer closing(t, s)
	var things []*thing
	for i := range byte(6) {
		things = append(things, makeThing(t, i, 700_000))
	}
	done := make(chan struct{})
	var work, reading sync.WaitGroup
	for range 2 {
		reading.Go(func() {
			b := s.Blocks(func(Item) bool { return true })
			for {
				select {
				case <-done:
					return
				default:
				}
				for _, x := range things {
					given(t, b, x)
					sentFrames(t, b, x)
					b.Have(x.NarHash)
					if f, err := s.Open(x.Path.Hash); err == nil {
						closing(t, f)
					}
				}
				s.Usage()
			}
		})
	}
	for _, x := range things {
		work.Go(func() {
			for range 3 {
				put(t, s, x)
			}
		})
	}
	work.Wait()
	close(done)
	reading.Wait()
	if u := s.Usage(); u.Items < 3 || u.Parts != 0 || u.PartBytes != 0 {
		t.Errorf("%+v", u)
	}
	if f := faults(t, s.dir, CheckOptions{}); strings.Contains(f, ":") {
		t.Error(f)
	}
}

// Of the parts that nobody has, those that were used last stay, if there are many.
func TestPartsLeft(t *testing.T) {
	dir, clock := memory(t), newClock()
	s := open(t, dir, Options{Now: clock.now})
	left := func(n byte) {
		x := makeThing(t, n, 5000)
		p := part(t, s, x)
		if err := p.Store(0, 0, x.nodes[0].Node); err != nil {
			t.Fatal(err)
		}
		clock.add(time.Minute)
		closing(t, p)
	}
	has := func(n byte) bool {
		_, err := os.Stat(s.path(path.Join(partsDir, string(BlocksID(makeThing(t, n, 5000).ReadCap)))))
		return err == nil
	}
	s.mostLeft = 3
	for n := range byte(5) {
		left(n)
	}
	if u := s.Usage(); u.Parts != 3 || has(0) || has(1) || !has(2) || !has(4) {
		t.Errorf("%+v", u)
	}
	left(2) // used again
	left(5)
	if u := s.Usage(); u.Parts != 3 || !has(2) || has(3) || !has(5) {
		t.Errorf("then %+v", u)
	}
	closing(t, s)
	s = unsettled(t, dir, Options{Now: clock.now})
	defer closing(t, s)
	s.mostLeft = 1
	if err := s.Settle(t.Context()); err != nil || s.Usage().Parts != 1 {
		t.Errorf("after a start: %+v, %v", s.Usage(), err)
	}
}
