package eris_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"ersatz/eris"
)

// spots returns where each node of a content without repetitions stands.
func spots(t *testing.T, content []byte, size eris.BlockSize) map[eris.Ref]spot {
	t.Helper()
	at := map[eris.Ref]spot{}
	_, _, err := eris.Encode(bytes.NewReader(content), size, eris.Secret{}, func(b eris.Block) error {
		at[b.Ref] = spot{b.Level, b.Index}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestLocator wants a source to know each node that it is asked for, in trees of
// several shapes.
func TestLocator(t *testing.T) {
	for _, n := range []int64{0, 1, 1024, 16 << 10, 16<<10 - 1, 300_000, 35_000_000} {
		for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
			content, c, m := encoded(t, n, size)
			want := spots(t, content, size)
			l := eris.NewLocator(c)
			var asked atomic.Int64
			source := fetcherFunc(func(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
				for _, ref := range refs {
					level, index, ok := l.Where(ref)
					if !ok || (spot{level, index}) != want[ref] {
						t.Errorf("%d bytes: node %v is found at %d of level %d, %v", n, want[ref], index, level, ok)
					}
					asked.Add(1)
				}
				return m.Fetch(ctx, size, refs, got)
			})
			r := eris.NewReader(t.Context(), c, l.Watch(source), eris.ReaderOptions{})
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, content) || int(asked.Load()) < len(want) {
				t.Errorf("%d bytes: got %d, %v, asked for %d of %d blocks", n, len(got), err, asked.Load(), len(want))
			}
			if _, err := r.ReadAt(make([]byte, 1), n/2); n > 0 && err != nil { // what was forgotten is learnt again
				t.Error(err)
			}
			r.Close()
			known := 0
			for ref := range want {
				if _, _, ok := l.Where(ref); ok {
					known++
				}
			}
			if most := 32<<10 + size.Arity(); known > most {
				t.Errorf("%d references are remembered, more than %d", known, most)
			}
		}
	}
}

// TestLocatorAskedLate wants leaves to be found when nobody has asked for one before
// they came, those of the nodes that came last.
func TestLocatorAskedLate(t *testing.T) {
	content, c, m := encoded(t, 34<<20, eris.Size1KiB)
	l := eris.NewLocator(c)
	r := eris.NewReader(t.Context(), c, l.Watch(manySource{m}), eris.ReaderOptions{})
	defer r.Close()
	if n, err := io.Copy(io.Discard, r); err != nil || n != int64(len(content)) {
		t.Fatal(n, err)
	}
	known := 0
	for ref, want := range spots(t, content, c.Size) {
		level, index, ok := l.Where(ref)
		if ok && (spot{level, index}) != want {
			t.Errorf("node %v is found at %d of level %d", want, index, level)
		}
		if ok && level == 0 {
			known++
		}
	}
	if known < 30<<10 || known > 32<<10 {
		t.Errorf("%d leaves are known", known)
	}
}

// TestLocatorLearnsNothing of blocks that are wrong, malformed, or not of the
// tree.
func TestLocatorLearnsNothing(t *testing.T) {
	content, c, m := encoded(t, 300_000, eris.Size1KiB)
	want := spots(t, content, c.Size)
	block := m.blocks[c.Root]
	for name, tt := range map[string]struct {
		ref   eris.Ref
		block []byte
		taken error
	}{
		"refused":        {c.Root, block, eris.ErrCorrupt},
		"wrong bytes":    {c.Root, make([]byte, c.Size), nil}, // a got that does not verify
		"no block":       {c.Root, block[:100], nil},
		"of no tree":     {eris.Ref{1}, block, nil},
		"not asked for":  {eris.Ref{}, nil, nil},
		"a longer block": {c.Root, make([]byte, eris.Size32KiB), nil},
	} {
		l := eris.NewLocator(c)
		err := l.Watch(fetcherFunc(func(_ context.Context, _ eris.BlockSize, _ []eris.Ref, got func(int, []byte) error) error {
			if tt.block == nil {
				return nil
			}
			return got(0, tt.block)
		})).Fetch(t.Context(), c.Size, []eris.Ref{tt.ref}, func(int, []byte) error { return tt.taken })
		if !errors.Is(err, tt.taken) {
			t.Errorf("%s: %v", name, err)
		}
		for ref := range want {
			if _, _, ok := l.Where(ref); ok != (ref == c.Root) {
				t.Errorf("%s: %v is known: %v", name, want[ref], ok)
			}
		}
	}
}

// TestLocatorRepeats has a content whose nodes repeat.
func TestLocatorRepeats(t *testing.T) {
	m := newMap()
	c, _, err := eris.Encode(bytes.NewReader(make([]byte, 100_000)), eris.Size1KiB, eris.Secret{}, m.put)
	if err != nil {
		t.Fatal(err)
	}
	l := eris.NewLocator(c)
	r := eris.NewReader(t.Context(), c, l.Watch(m), eris.ReaderOptions{})
	defer r.Close()
	for range 2 {
		if n, err := io.Copy(io.Discard, io.NewSectionReader(r, 0, 100_000)); err != nil || n != 100_000 {
			t.Fatal(n, err)
		}
	}
	for ref := range m.blocks {
		if _, _, ok := l.Where(ref); !ok {
			t.Errorf("%v is not known", ref)
		}
	}
}
