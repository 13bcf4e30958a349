package narindex

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ersatz/eris"
)

// A reader passes over the items that it may not read, also where another one
// has the same block.
func TestReaderAllow(t *testing.T) {
	x := open(t)
	content := randomBytes(1, 40_000)
	a := add(t, x, 0, content, eris.Size1KiB)
	b := add(t, x, 1, content, eris.Size1KiB)
	only := func(allowed ...*testItem) (n int) {
		r := x.Reader(func(hash string) bool {
			return slices.ContainsFunc(allowed, func(it *testItem) bool { return it.path.Hash == hash })
		})
		defer r.Close()
		for _, ref := range a.refs {
			block, err := r.Get(t.Context(), ref)
			if has, herr := r.Has(t.Context(), ref); herr != nil || has != (err == nil) {
				t.Errorf("has it: %v, %v; got it: %v", has, herr, err)
			}
			if err == nil && bytes.Equal(block, a.blocks[ref]) {
				n++
			} else if !errors.Is(err, eris.ErrNotFound) {
				t.Error(err)
			}
		}
		return n
	}
	r := x.Reader(nil)
	defer r.Close()
	other := a.refs[0]
	other[31]++ // begins like a row's
	if has, err := r.Has(t.Context(), other); has || err != nil {
		t.Errorf("has a block that is not there: %v, %v", has, err)
	}
	if n := only(); n != 0 {
		t.Errorf("%d blocks of nothing", n)
	}
	for _, it := range []*testItem{a, b} {
		if n := only(it); n != len(a.refs) {
			t.Errorf("%d blocks of %d", n, len(a.refs))
		}
	}
}

// Check names what is wrong with an item's blocks.
func TestCheck(t *testing.T) {
	x := open(t)
	it := add(t, x, 0, randomBytes(1, 40_000), eris.Size1KiB)
	good := Item{Hash: it.path.Hash, Base: it.path.Base(), Nar: it.nar}
	check := func(want Item, rc eris.ReadCap, words string) {
		t.Helper()
		found, err := x.Check(t.Context(), want, rc)
		if err != nil || words == "" && found != nil || words != "" && (found == nil || !strings.Contains(found.Error(), words)) {
			t.Errorf("want %q: %v, %v", words, found, err)
		}
	}
	check(good, it.cap, "")
	other := it.cap
	other.Root[0] ^= 1
	check(good, other, "another one's")
	none := good
	none.Hash = testPath(t, 1).Hash
	check(none, it.cap, "not in the index")
	moved := good
	moved.Nar = "nar/other"
	check(moved, it.cap, "not nar/other")
	if _, err := x.db.Exec(`DELETE FROM blocks WHERE node < 3`); err != nil {
		t.Fatal(err)
	}
	check(good, it.cap, "3 rows are missing")
	damage(t, filepath.Join(x.dir, it.nar), 5000)
	check(good, it.cap, "node 4 is no longer")
	damage(t, x.treePath(it.path.Base()), -1)
	check(good, it.cap, "corrupt")
}
