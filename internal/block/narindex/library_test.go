package narindex

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ersatz/eris"
	"ersatz/internal/block"
)

var _ block.Content = (*Content)(nil)

// An item is found by its root, and by no other block of it.
func TestOpenRoot(t *testing.T) {
	x := open(t)
	it := add(t, x, 0, randomBytes(1, 40_000), eris.Size1KiB)
	add(t, x, 1, randomBytes(2, 40_000), eris.Size1KiB)
	c, err := x.OpenRoot(t.Context(), it.cap.Root, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.ReadCap() != it.cap || c.c.length != 40_000 || c.Len() != int64(len(it.refs)) {
		t.Errorf("%v, %d bytes, %d blocks", c.ReadCap(), c.c.length, c.Len())
	}
	for place, want := range it.refs {
		ref, b, err := c.Block(t.Context(), int64(place))
		if err != nil || ref != want || !bytes.Equal(b, it.blocks[want]) {
			t.Fatalf("block %d is %v, %v", place, ref, err)
		}
	}
	missing := func(what string, root eris.Ref, allow func(string) bool) {
		t.Helper()
		if c, err := x.OpenRoot(t.Context(), root, allow); !errors.Is(err, eris.ErrNotFound) {
			t.Errorf("%s: %v, %v", what, c, err)
		}
	}
	missing("a leaf", it.refs[0], nil)
	missing("an inner node", it.refs[len(it.refs)-2], nil)
	missing("nothing", eris.Ref{1}, nil)
	missing("not allowed", it.cap.Root, func(hash string) bool { return hash != it.path.Hash })
}

// Of two items with one content, the one that may be read and is whole serves.
func TestOpenRootOfTwins(t *testing.T) {
	x := open(t)
	a := add(t, x, 0, randomBytes(1, 5000), eris.Size1KiB)
	b := add(t, x, 1, randomBytes(1, 5000), eris.Size1KiB)
	found := func(allow func(string) bool) error {
		t.Helper()
		c, err := x.OpenRoot(t.Context(), a.cap.Root, allow)
		if err == nil {
			_, _, err = c.Block(t.Context(), 0)
			err = errors.Join(err, c.Close())
		}
		return err
	}
	if err := found(func(hash string) bool { return hash == b.path.Hash }); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(x.dir, a.nar)); err != nil {
		t.Fatal(err)
	}
	if err := found(nil); err != nil {
		t.Errorf("one nar is gone: %v", err)
	}
	if err := os.Remove(x.treePath(b.path.Base())); err != nil {
		t.Fatal(err)
	}
	if err := found(nil); !errors.Is(err, eris.ErrNotFound) {
		t.Errorf("nothing is whole: %v", err)
	}
}

// Many items with one content, as empty folders are, hide none that may be read.
func TestManyTwins(t *testing.T) {
	x := open(t)
	const many = 2*maxCandidates + 1
	var last *testItem
	for n := range many {
		last = add(t, x, n, []byte("all the same"), eris.Size1KiB)
	}
	asked := 0
	allow := func(hash string) bool {
		asked++
		return hash == last.path.Hash
	}
	c, err := x.OpenRoot(t.Context(), last.cap.Root, allow)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Verify(t.Context()), c.Close()); err != nil {
		t.Error(err)
	}
	r := x.Reader(allow)
	defer r.Close()
	if b, err := r.Get(t.Context(), last.cap.Root); err != nil || eris.BlockRef(b) != last.cap.Root {
		t.Error(err)
	}
	if asked != 2*many {
		t.Errorf("asked %d times", asked)
	}
}

func TestShape(t *testing.T) {
	x := open(t)
	it := add(t, x, 0, randomBytes(1, 5000), eris.Size1KiB)
	i, err := x.Item(t.Context(), it.path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	if rc, length, err := x.Shape(i); err != nil || rc != it.cap || length != 5000 {
		t.Errorf("%v, %d bytes, %v", rc, length, err)
	}
	damage(t, x.treePath(i.Base), 0)
	if _, _, err := x.Shape(i); !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("damaged: %v", err)
	}
	if err := x.Remove(t.Context(), it.path.Hash); err != nil {
		t.Fatal(err)
	}
	if _, _, err := x.Shape(i); !errors.Is(err, ErrNoItem) {
		t.Errorf("gone: %v", err)
	}
}
