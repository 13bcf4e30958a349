package eris_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
)

// spot is where a node stands.
type spot struct {
	level int
	index int64
}

// shelf is eris.Nodes in memory.
type shelf struct {
	size eris.BlockSize

	mu     sync.Mutex
	nodes  map[spot][]byte
	done   map[spot]eris.Block
	stored int
	fault  func(stored int) error // before a Store
	broken error                  // of Load
	twice  []spot                 // Done was called more than once
}

func newShelf(c eris.ReadCap) *shelf {
	return &shelf{size: c.Size, nodes: map[spot][]byte{}, done: map[spot]eris.Block{}}
}

// again returns a shelf with the same nodes, as the next process finds them.
func (s *shelf) again() *shelf {
	n := &shelf{size: s.size, nodes: map[spot][]byte{}, done: map[spot]eris.Block{}}
	for k, b := range s.nodes {
		n.nodes[k] = bytes.Clone(b)
	}
	return n
}

func (s *shelf) Load(level int, index int64, buf []byte) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return copy(buf, s.nodes[spot{level, index}]) > 0, s.broken
}

func (s *shelf) Store(level int, index int64, node []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil {
		if err := s.fault(s.stored); err != nil {
			return err
		}
	}
	s.stored++
	s.nodes[spot{level, index}] = bytes.Clone(node)
	return nil
}

func (s *shelf) Done(level int, index int64, ref eris.Ref, key eris.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := spot{level, index}
	if _, ok := s.done[at]; ok {
		s.twice = append(s.twice, at)
	}
	s.done[at] = eris.Block{Ref: ref, Key: key, Level: level, Index: index}
}

// content returns the leaves up to a length.
func (s *shelf) content(length int64) []byte {
	var out []byte
	for i := int64(0); i*int64(s.size) <= length; i++ {
		out = append(out, s.nodes[spot{0, i}]...)
	}
	return out[:length]
}

// check fails the test unless the shelf has all of a content, and the tree is
// told as an encoder does.
func (s *shelf) check(t *testing.T, f *eris.Filler, length int64, content []byte, secret eris.Secret) {
	t.Helper()
	if length != int64(len(content)) || !bytes.Equal(s.content(length), content) {
		t.Errorf("%d bytes, want %d", length, len(content))
	}
	var want, got []eris.Block
	_, _, err := eris.Encode(bytes.NewReader(content), s.size, secret, func(b eris.Block) error {
		want = append(want, eris.Block{Ref: b.Ref, Key: b.Key, Level: b.Level, Index: b.Index})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = f.Tree(func(b eris.Block) error {
		got = append(got, b)
		return nil
	})
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("tree of %d nodes, %v; want %d", len(got), err, len(want))
	}
	for _, b := range want {
		if !reflect.DeepEqual(s.done[spot{b.Level, b.Index}], b) {
			t.Errorf("node %d of level %d was not said to be there", b.Index, b.Level)
		}
	}
	if len(s.done) != len(want) || s.twice != nil {
		t.Errorf("%d nodes are done of %d; twice: %v", len(s.done), len(want), s.twice)
	}
	if m := f.Missing(); m != nil {
		t.Errorf("missing: %v", m)
	}
}

// readFilled is a decoder by a Filler.
func readFilled(ctx context.Context, c eris.ReadCap, src eris.Fetcher, o eris.ReaderOptions) ([]byte, error) {
	s := newShelf(c)
	f := eris.NewFiller(c, s, eris.FillOptions{MaxLength: o.MaxLength, Batch: o.Batch})
	n, err := f.Run(ctx, src)
	if err != nil {
		return nil, err
	}
	return s.content(n), nil
}

// TestFill fills trees of several shapes with batches of several sizes.
func TestFill(t *testing.T) {
	for _, n := range []int64{0, 1, 1023, 1024, 16 << 10, 16<<10 - 1, 17 << 10, 300_000} {
		for _, o := range []eris.FillOptions{{}, {Batch: 1, Parallel: 1}, {Batch: 5, Parallel: 3}, {Batch: 16}} {
			for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
				content, c, m := encoded(t, n, size)
				s := newShelf(c)
				f := eris.NewFiller(c, s, o)
				if err := f.Tree(nil); err == nil {
					t.Error("there is a tree before anything is there")
				}
				got, err := f.Run(t.Context(), m)
				if err != nil {
					t.Fatal(err)
				}
				s.check(t, f, got, content, eris.Secret{})
				asked := m.asked
				if again, err := f.Run(t.Context(), m); again != n || err != nil || m.asked != asked || asked != len(s.done) {
					t.Errorf("again: %d bytes, %v; asked for %d and %d of %d", again, err, asked, m.asked, len(s.done))
				}
			}
		}
	}
}

// TestFillResumes has each run end after k nodes were stored, and the next one
// find them, some of them spoilt.
func TestFillResumes(t *testing.T) {
	full := errors.New("disk full")
	content, c, m := encoded(t, 60<<10, eris.Size1KiB)
	all := len(m.blocks)
	for k := range all {
		for _, spoil := range []bool{false, true} {
			first := newShelf(c)
			first.fault = func(stored int) error {
				if stored == k {
					return full
				}
				return nil
			}
			if _, err := eris.NewFiller(c, first, eris.FillOptions{Batch: 7}).Run(t.Context(), m); !errors.Is(err, full) {
				t.Fatalf("after %d nodes: %v", k, err)
			}
			second, spoilt, i := first.again(), 0, 0
			for at, node := range second.nodes {
				if i++; spoil && i%3 == 0 {
					if spoilt++; i%2 == 0 {
						clear(node)
					} else {
						node[at.index%1024] ^= 4
					}
				}
			}
			f := eris.NewFiller(c, second, eris.FillOptions{Batch: 7})
			m.asked = 0
			n, err := f.Run(t.Context(), m)
			if err != nil {
				t.Fatal(err)
			}
			second.check(t, f, n, content, eris.Secret{})
			if second.stored != all-len(first.nodes)+spoilt || m.asked != second.stored {
				t.Errorf("%d of %d were there, %d spoilt: asked for %d, stored %d", len(first.nodes), all, spoilt, m.asked, second.stored)
			}
		}
	}
}

// TestFillZeros finds leaves of zeros that were stored, and does not take holes
// for nodes.
func TestFillZeros(t *testing.T) {
	content := make([]byte, 20<<10)
	m := newMap()
	c, _, err := eris.Encode(bytes.NewReader(content), eris.Size1KiB, eris.Secret{}, m.put)
	if err != nil {
		t.Fatal(err)
	}
	s := newShelf(c)
	for level := range 3 {
		for i := range int64(20) {
			s.nodes[spot{level, i}] = make([]byte, 1024)
		}
	}
	f := eris.NewFiller(c, s, eris.FillOptions{})
	n, err := f.Run(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	s.check(t, f, n, content, eris.Secret{})
	if m.asked != 4 { // the root, two nodes below it, the last leaf
		t.Errorf("asked for %d blocks", m.asked)
	}
}

// TestFillFromTwo takes from one source what it has, then the rest from
// another. What neither has is named, and reckoned as missing.
func TestFillFromTwo(t *testing.T) {
	content, c, m := encoded(t, 60<<10, eris.Size1KiB)
	var refs []eris.Ref // of leaves
	_, _, err := eris.Encode(bytes.NewReader(content), eris.Size1KiB, eris.Secret{}, func(b eris.Block) error {
		if b.Level == 0 {
			refs = append(refs, b.Ref)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	half, rest := newMap(), newMap()
	for ref, b := range m.blocks {
		half.blocks[ref], rest.blocks[ref] = b, b
	}
	for i := 10; i < 20; i++ {
		delete(half.blocks, refs[i])
	}
	delete(half.blocks, refs[60])
	s := newShelf(c)
	f := eris.NewFiller(c, s, eris.FillOptions{Batch: 4})
	_, err = f.Run(t.Context(), half)
	var missing *eris.MissingError
	if !errors.As(err, &missing) || missing.Ref != refs[10] {
		t.Fatalf("%v, want %v", err, refs[10])
	}
	if got, want := f.Missing(), []eris.Span{{First: 10, End: 20, Known: true}, {First: 60, End: 61, Known: true}}; !reflect.DeepEqual(got, want) {
		t.Errorf("missing %v, want %v", got, want)
	}
	n, err := f.Run(t.Context(), rest)
	if err != nil || rest.asked != 11 {
		t.Fatalf("%v, asked for %d", err, rest.asked)
	}
	s.check(t, f, n, content, eris.Secret{})
}

func TestFillerMissing(t *testing.T) {
	_, c, m := encoded(t, 300<<10, eris.Size1KiB)
	f := eris.NewFiller(c, newShelf(c), eris.FillOptions{})
	if got, want := f.Missing(), []eris.Span{{First: 0, End: -1}}; !reflect.DeepEqual(got, want) {
		t.Errorf("before: %v", got)
	}
	leaf := make([]byte, 1024)
	for _, i := range []int64{2, 3, 9} {
		if err := f.PutLeaf(i, leaf); err != nil {
			t.Fatal(err)
		}
	}
	want := []eris.Span{{First: 0, End: 2}, {First: 4, End: 9}, {First: 10, End: -1}}
	if got := f.Missing(); !reflect.DeepEqual(got, want) {
		t.Errorf("with three leaves: %v, want %v", got, want)
	}
	// Without the second node above the leaves.
	var second eris.Ref
	whole := eris.NewFiller(c, newShelf(c), eris.FillOptions{})
	if _, err := whole.Run(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	err := whole.Tree(func(b eris.Block) error {
		if b.Level == 1 && b.Index == 1 {
			second = b.Ref
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(m.blocks, second)
	if _, err := f.Run(t.Context(), m); !errors.Is(err, eris.ErrNotFound) {
		t.Fatal(err)
	}
	if got, want := f.Missing(), []eris.Span{{First: 16, End: 32}}; !reflect.DeepEqual(got, want) {
		t.Errorf("without a node: %v, want %v", got, want)
	}
	if err := f.PutLeaf(20, leaf); err != nil {
		t.Error(err)
	}
	if got, want := f.Missing(), []eris.Span{{First: 16, End: 20}, {First: 21, End: 32}}; !reflect.DeepEqual(got, want) {
		t.Errorf("without a node: %v, want %v", got, want)
	}
}

// TestPutLeaf gives leaves before and after their references are known.
func TestPutLeaf(t *testing.T) {
	content, c, m := encoded(t, 40<<10+5, eris.Size1KiB)
	leaf := func(i int64) []byte {
		if i < 40 {
			return content[i<<10:][:1024]
		}
		last := make([]byte, 1024)
		eris.Leaf(last, content[i<<10:])
		return last
	}
	inner := newMap() // all but leaves
	_, _, err := eris.Encode(bytes.NewReader(content), eris.Size1KiB, eris.Secret{}, func(b eris.Block) error {
		if b.Level > 0 {
			inner.blocks[b.Ref] = bytes.Clone(b.Data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s := newShelf(c)
	f := eris.NewFiller(c, s, eris.FillOptions{})
	for i := range int64(20) {
		if err := f.PutLeaf(i, leaf(i+i/19)); err != nil { // the last one is wrong
			t.Fatal(err)
		}
	}
	if len(s.done) > 0 {
		t.Error("leaves are right that nobody can have verified")
	}
	if _, err := f.Run(t.Context(), inner); !errors.Is(err, eris.ErrNotFound) {
		t.Fatal(err)
	}
	if got, want := f.Missing(), []eris.Span{{First: 19, End: 41, Known: true}}; !reflect.DeepEqual(got, want) {
		t.Fatalf("missing %v, want %v", got, want)
	}
	stored := s.stored
	if err := f.PutLeaf(30, leaf(31)); !errors.Is(err, eris.ErrCorrupt) || s.stored != stored {
		t.Errorf("a wrong leaf: %v, stored %d", err, s.stored-stored)
	}
	for _, i := range []int64{-1, 41, 1 << 40} {
		if err := f.PutLeaf(i, leaf(0)); !errors.Is(err, eris.ErrTooLong) {
			t.Errorf("leaf %d: %v", i, err)
		}
	}
	if err := f.PutLeaf(30, leaf(30)[:5]); err == nil {
		t.Error("half a leaf was taken")
	}
	for i := range int64(41) {
		if err := f.PutLeaf(i, leaf(i)); err != nil {
			t.Fatal(err)
		}
	}
	asked := m.asked
	n, err := f.Run(t.Context(), m)
	if err != nil || m.asked != asked {
		t.Fatalf("%v, asked for %d", err, m.asked-asked)
	}
	s.check(t, f, n, content, eris.Secret{})
}

// TestPutLeafBesideRun has leaves, right and wrong ones, put while a run stores
// the same.
func TestPutLeafBesideRun(t *testing.T) {
	for range 20 {
		content, c, m := encoded(t, 200<<10, eris.Size1KiB)
		s := newShelf(c)
		f := eris.NewFiller(c, s, eris.FillOptions{Batch: 16})
		var work sync.WaitGroup
		for w := range 2 {
			work.Go(func() {
				for _, i := range rand.Perm(200) {
					leaf := bytes.Clone(content[i<<10:][:1024])
					leaf[0] ^= byte(w) // the second one's are wrong
					if err := f.PutLeaf(int64(i), leaf); err != nil && (w == 0 || !errors.Is(err, eris.ErrCorrupt)) {
						t.Error(err)
					}
				}
			})
		}
		var lengths [2]int64
		for i := range lengths {
			work.Go(func() {
				var err error
				if lengths[i], err = f.Run(t.Context(), m); err != nil {
					t.Error(err)
				}
			})
		}
		work.Wait()
		if lengths[0] != lengths[1] {
			t.Errorf("two lengths: %v", lengths)
		}
		s.check(t, f, lengths[0], content, eris.Secret{})
	}
}

// TestFillWindow wants all internal nodes before leaves, no more calls than
// allowed, and each level in order.
func TestFillWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content, c, m := encoded(t, 1<<20-1, eris.Size1KiB)
		src := &slowSource{blockMap: m, delay: 10 * time.Millisecond}
		s := newShelf(c)
		f := eris.NewFiller(c, s, eris.FillOptions{Batch: 64, Parallel: 3})
		start := time.Now()
		n, err := f.Run(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		s.check(t, f, n, content, eris.Secret{})
		// 1024 leaves, 64 nodes above them, 4, the root.
		if rounds := int(time.Since(start) / src.delay); rounds > 3+(1024/64+2)/3 {
			t.Errorf("%d rounds", rounds)
		}
		if src.most != 3 || src.widest != 64 {
			t.Errorf("%d calls at once, %d blocks in one", src.most, src.widest)
		}
	})
}

// TestWhere finds blocks while they are asked for, and only then.
func TestWhere(t *testing.T) {
	content, c, m := encoded(t, 30<<10, eris.Size1KiB)
	s := newShelf(c)
	var f *eris.Filler
	var refs []eris.Ref
	f = eris.NewFiller(c, s, eris.FillOptions{Parallel: 1})
	n, err := f.Run(t.Context(), fetcherFunc(func(ctx context.Context, size eris.BlockSize, asked []eris.Ref, got func(int, []byte) error) error {
		for _, ref := range asked {
			refs = append(refs, ref)
			level, index, ok := f.Where(ref)
			if !ok {
				t.Errorf("%s is nowhere", ref)
			}
			defer func() {
				if s.done[spot{level, index}].Ref != ref {
					t.Errorf("%s is not node %d of level %d", ref, index, level)
				}
			}()
		}
		return m.Fetch(ctx, size, asked, got)
	}))
	if err != nil {
		t.Fatal(err)
	}
	s.check(t, f, n, content, eris.Secret{})
	for _, ref := range refs {
		if _, _, ok := f.Where(ref); ok {
			t.Errorf("%s is still asked for", ref)
		}
	}
}

type fetcherFunc func(context.Context, eris.BlockSize, []eris.Ref, func(int, []byte) error) error

func (f fetcherFunc) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	return f(ctx, size, refs, got)
}

// TestFillFails stops in the ways there are; the next run goes on.
func TestFillFails(t *testing.T) {
	broken := errors.New("connection reset")
	content, c, m := encoded(t, 200<<10, eris.Size1KiB)
	for name, src := range map[string]struct {
		eris.Fetcher
		want error
	}{
		"source fails": {fetcherFunc(func(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
			return errors.Join(m.Fetch(ctx, size, refs[:(len(refs)+1)/2], got), broken)
		}), broken},
		"source lies": {fetcherFunc(func(_ context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
			return got(0, make([]byte, size))
		}), eris.ErrCorrupt},
		"source is empty": {newMap(), eris.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(c)
			f := eris.NewFiller(c, s, eris.FillOptions{Batch: 8})
			if _, err := f.Run(t.Context(), src); !errors.Is(err, src.want) || f.Err() != nil {
				t.Fatalf("%v; %v", err, f.Err())
			}
			n, err := f.Run(t.Context(), m)
			if err != nil {
				t.Fatal(err)
			}
			s.check(t, f, n, content, eris.Secret{})
		})
	}
	// A source that fails when it has given all has not failed.
	late := fetcherFunc(func(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
		return errors.Join(m.Fetch(ctx, size, refs, got), broken)
	})
	s := newShelf(c)
	if _, err := eris.NewFiller(c, s, eris.FillOptions{}).Run(t.Context(), late); err != nil {
		t.Error(err)
	}
	s = s.again()
	s.broken = broken
	if _, err := eris.NewFiller(c, s, eris.FillOptions{}).Run(t.Context(), m); !errors.Is(err, broken) {
		t.Errorf("Nodes that cannot be read: %v", err)
	}
}

func TestFillCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content, c, m := encoded(t, 200<<10, eris.Size1KiB)
		src := &slowSource{blockMap: m, delay: time.Second}
		s := newShelf(c)
		f := eris.NewFiller(c, s, eris.FillOptions{Batch: 8})
		ctx, cancel := context.WithTimeout(t.Context(), 5500*time.Millisecond)
		defer cancel()
		if _, err := f.Run(ctx, src); !errors.Is(err, context.DeadlineExceeded) || src.calls > 0 {
			t.Errorf("%v, %d calls run", err, src.calls)
		}
		given := len(s.done)
		n, err := f.Run(t.Context(), src)
		if err != nil || given == 0 || given == len(s.done) {
			t.Fatalf("%v; %d of %d before", err, given, len(s.done))
		}
		s.check(t, f, n, content, eris.Secret{})
	})
}

// TestFillBroken: that a tree breaks its rules is told as such, and stays so,
// also when its nodes come from the disk or as leaves.
func TestFillBroken(t *testing.T) {
	fg := newForge(eris.Size1KiB)
	bad := []byte("no padding")
	c := fg.readCap(1, fg.inner(1, fg.full(), fg.leaf(bad, bytes.Repeat([]byte{1}, 2000))))
	s := newShelf(c)
	f := eris.NewFiller(c, s, eris.FillOptions{})
	told := 0
	for range 2 {
		_, err := f.Run(t.Context(), fetcherFunc(func(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
			err := fg.Fetch(ctx, size, refs, got)
			if errors.Is(err, eris.ErrCorrupt) {
				t.Errorf("the source is blamed: %v", err)
			}
			told++
			return err
		}))
		if !errors.Is(err, eris.ErrCorrupt) || !strings.Contains(err.Error(), "last leaf") || !errors.Is(f.Err(), eris.ErrCorrupt) {
			t.Errorf("%v; %v", err, f.Err())
		}
	}
	if err := f.PutLeaf(0, make([]byte, 1024)); !errors.Is(err, eris.ErrCorrupt) || told != 2 {
		t.Errorf("%v after %d calls", err, told)
	}
	if err := f.Tree(nil); err == nil {
		t.Error("a broken tree is whole")
	}
	if _, ok := s.nodes[spot{0, 1}]; ok {
		t.Error("the bad leaf was stored")
	}
	f = eris.NewFiller(c, s, eris.FillOptions{})
	leaf := append(bad, bytes.Repeat([]byte{1}, 1024-len(bad))...)
	if err := f.PutLeaf(1, leaf); err != nil {
		t.Errorf("a leaf that nothing is known of: %v", err)
	}
	if _, err := f.Run(t.Context(), fg); !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("from what is stored: %v", err)
	}
}
