package narindex

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"ersatz/eris"
	"ersatz/internal/durable"
)

// Every block of items of every shape comes back as the encoder made it.
func TestBlocks(t *testing.T) {
	x := open(t)
	var items []*testItem
	for size, lengths := range map[eris.BlockSize][]int{
		eris.Size1KiB:  {0, 1, 1023, 1024, 15 << 10, 16<<10 - 1, 16 << 10, 256<<10 - 1, 300 << 10},
		eris.Size32KiB: {0, 16 << 10, 32<<10 - 1, 32 << 10, 5 << 20, 16<<20 - 1, 17 << 20},
	} {
		for _, length := range lengths {
			it := add(t, x, len(items), randomBytes(byte(len(items)), length), size)
			items = append(items, it)
		}
	}
	// One whose leaves are all equal.
	items = append(items, add(t, x, len(items), make([]byte, 100<<10), eris.Size1KiB))
	levels := map[uint8]bool{}
	for _, it := range items {
		levels[it.cap.Level] = true
		if n := found(t, x, it, it.refs); n != len(it.refs) {
			t.Errorf("%d bytes: batches give %d blocks of %d", len(it.refs), n, len(it.refs))
		}
		backwards := slices.Clone(it.refs)
		slices.Reverse(backwards)
		if n := found(t, x, it, backwards); n != len(it.refs) {
			t.Errorf("backwards: batches give %d blocks of %d", n, len(it.refs))
		}
		for i, ref := range it.refs {
			if i > 40 && i < len(it.refs)-40 {
				continue
			}
			b, err := x.Get(t.Context(), ref)
			if err != nil || !bytes.Equal(b, it.blocks[ref]) {
				t.Fatalf("%s: block %d: %v", it.path, i, err)
			}
		}
	}
	for level := range uint8(4) {
		if !levels[level] {
			t.Errorf("no item of level %d", level)
		}
	}
	// A batch over several items, with references that nobody has.
	mixed := &testItem{blocks: map[eris.Ref][]byte{}}
	for i := range 200 {
		it := items[i%len(items)]
		ref := it.refs[i%len(it.refs)]
		mixed.blocks[ref] = it.blocks[ref]
		mixed.refs = append(mixed.refs, ref, eris.Ref{byte(i)})
	}
	if n := found(t, x, mixed, mixed.refs); n != 200 {
		t.Errorf("a mixed batch gives %d blocks of 200", n)
	}
}

func TestGetMissing(t *testing.T) {
	x := open(t)
	ref := eris.Ref{1, 2, 3}
	_, err := x.Get(t.Context(), ref)
	if e := (*eris.MissingError)(nil); !errors.As(err, &e) || e.Ref != ref {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := x.Get(ctx, ref); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := x.Batch(ctx, []eris.Ref{ref}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled batch: %v", err)
	}
	stop := errors.New("stop")
	err = x.Batch(t.Context(), []eris.Ref{ref, ref}, func(i int, b []byte) error {
		if i != 0 || b != nil {
			t.Errorf("block %d: %d bytes", i, len(b))
		}
		return stop
	})
	if !errors.Is(err, stop) {
		t.Errorf("emit's error: %v", err)
	}
}

// A run needs one look-up: the others are found in the tree, which shows when
// the rows are gone.
func TestRuns(t *testing.T) {
	x := open(t)
	it := add(t, x, 0, randomBytes(1, 20<<20), eris.Size32KiB)
	if _, err := x.db.Exec(`DELETE FROM blocks WHERE node <> 0`); err != nil {
		t.Fatal(err)
	}
	if n := found(t, x, it, it.refs[:512]); n != 512 {
		t.Errorf("%d blocks of a run of 512", n)
	}
	every := []eris.Ref{} // two sources share a run
	for i := 0; i < 512; i += 3 {
		every = append(every, it.refs[i])
	}
	if n := found(t, x, it, every); n != len(every) {
		t.Errorf("%d blocks of every third in a run, %d", n, len(every))
	}
}

// Whatever is damaged, the blocks that it spoils are missing, none is wrong,
// and Verify says so.
func TestDamage(t *testing.T) {
	const length = 100_000 // 98 leaves of 1 KiB, 7 nodes, 1 root
	for _, tt := range []struct {
		name   string
		damage func(x *Index, it *testItem)
		lost   int // blocks
	}{
		{"nar", func(x *Index, it *testItem) { damage(t, filepath.Join(x.dir, it.nar), 5000) }, 1},
		{"nar cut", func(x *Index, it *testItem) { truncate(t, filepath.Join(x.dir, it.nar), 1500) }, 97},
		{"nar longer", func(x *Index, it *testItem) { appendTo(t, filepath.Join(x.dir, it.nar)) }, 0},
		{"nar gone", func(x *Index, it *testItem) { remove(t, filepath.Join(x.dir, it.nar)) }, 98},
		{"reference of a leaf", func(x *Index, it *testItem) { damage(t, x.treePath(it.path.Base()), int64(len(treeMagic))) }, 2},
		{"key of a leaf", func(x *Index, it *testItem) { damage(t, x.treePath(it.path.Base()), int64(len(treeMagic))+32) }, 2},
		{"magic", func(x *Index, it *testItem) { damage(t, x.treePath(it.path.Base()), 3) }, 106},
		{"length", func(x *Index, it *testItem) { damage(t, x.treePath(it.path.Base()), -7) }, 106},
		{"length, one more", func(x *Index, it *testItem) { damage(t, x.treePath(it.path.Base()), -1) }, 1},
		{"root", func(x *Index, it *testItem) { damage(t, x.treePath(it.path.Base()), -70) }, 106},
		{"block size", func(x *Index, it *testItem) { damage(t, x.treePath(it.path.Base()), -74) }, 106},
		{"level", func(x *Index, it *testItem) { damage(t, x.treePath(it.path.Base()), -73) }, 106},
		{"tree cut", func(x *Index, it *testItem) { truncate(t, x.treePath(it.path.Base()), 64*50) }, 106},
		{"tree empty", func(x *Index, it *testItem) { truncate(t, x.treePath(it.path.Base()), 0) }, 106},
		{"tree gone", func(x *Index, it *testItem) { remove(t, x.treePath(it.path.Base())) }, 106},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := open(t)
			it := add(t, x, 0, randomBytes(1, length), eris.Size1KiB)
			whole, err := x.Open(t.Context(), it.path.Hash)
			if err != nil {
				t.Fatal(err)
			}
			if err := whole.Verify(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := whole.Close(); err != nil {
				t.Fatal(err)
			}
			tt.damage(x, it)
			got := 0
			for _, ref := range it.refs {
				switch b, err := x.Get(t.Context(), ref); {
				case errors.Is(err, eris.ErrNotFound):
				case err != nil:
					t.Fatal(err)
				case !bytes.Equal(b, it.blocks[ref]):
					t.Fatal("wrong bytes")
				default:
					got++
				}
			}
			if lost := len(it.refs) - got; lost != tt.lost {
				t.Errorf("%d blocks lost, want %d", lost, tt.lost)
			}
			if n := found(t, x, it, it.refs); n != got {
				t.Errorf("batches give %d blocks, Get %d", n, got)
			}
			c, err := x.Open(t.Context(), it.path.Hash)
			if err == nil {
				err = errors.Join(c.Verify(t.Context()), c.Close())
			}
			if err == nil {
				t.Error("Verify found nothing")
			}
		})
	}
}

func truncate(t testing.TB, file string, n int64) {
	t.Helper()
	if err := os.Truncate(file, n); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

func appendTo(t testing.TB, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, append(b, 0), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Rows that agree with a reference in its first 8 bytes and lead elsewhere are
// passed over.
func TestCollision(t *testing.T) {
	x := open(t)
	a := add(t, x, 0, randomBytes(1, 50_000), eris.Size1KiB)
	b := add(t, x, 1, randomBytes(2, 50_000), eris.Size1KiB)
	for _, ref := range b.refs {
		for _, node := range []int64{0, 7, 1 << 40, -1} {
			if _, err := x.db.Exec(`INSERT INTO blocks VALUES (?, 1, ?)`, key(ref[:]), node); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := found(t, x, b, b.refs); n != len(b.refs) {
		t.Errorf("%d blocks of %d", n, len(b.refs))
	}
	if n := found(t, x, a, a.refs); n != len(a.refs) {
		t.Errorf("%d blocks of %d", n, len(a.refs))
	}
	// The same 8 bytes, but another reference.
	other := a.refs[3]
	other[31] ^= 1
	if _, err := x.Get(t.Context(), other); !errors.Is(err, eris.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// Blocks that two items share outlive one of them.
func TestRemove(t *testing.T) {
	x := open(t)
	content := randomBytes(1, 300_000)
	a := add(t, x, 0, content, eris.Size1KiB)
	b := add(t, x, 1, content, eris.Size1KiB)
	c := add(t, x, 2, randomBytes(2, 1000), eris.Size1KiB)
	for range 2 { // again is no error
		if err := x.Remove(t.Context(), a.path.Hash); err != nil {
			t.Fatal(err)
		}
	}
	remove(t, filepath.Join(x.dir, a.nar))
	if n := found(t, x, b, b.refs); n != len(b.refs) {
		t.Errorf("%d blocks of %d", n, len(b.refs))
	}
	if n := count(t, x); n != len(b.refs)+len(c.refs) {
		t.Errorf("%d rows left, want %d", n, len(b.refs)+len(c.refs))
	}
	// Without a tree file the rows go too.
	remove(t, x.treePath(b.path.Base()))
	if err := x.Remove(t.Context(), b.path.Hash); err != nil {
		t.Fatal(err)
	}
	if n := count(t, x); n != len(c.refs) {
		t.Errorf("%d rows left, want %d", n, len(c.refs))
	}
	if _, err := x.Item(t.Context(), b.path.Hash); !errors.Is(err, ErrNoItem) {
		t.Errorf("got %v", err)
	}
	left, err := filepath.Glob(filepath.Join(x.dir, TreeDir, "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
}

// An item that is committed again takes the place of the old one, also if a
// crash has left the old rows beside a new tree file.
func TestReplace(t *testing.T) {
	x := open(t)
	old := add(t, x, 0, randomBytes(1, 200_000), eris.Size1KiB)
	now := add(t, x, 0, randomBytes(2, 40<<10), eris.Size32KiB)
	if n := found(t, x, now, now.refs); n != len(now.refs) {
		t.Errorf("%d blocks of %d", n, len(now.refs))
	}
	if n := found(t, x, old, old.refs); n != 0 {
		t.Errorf("%d blocks of the old item", n)
	}
	if n := count(t, x); n != len(now.refs) {
		t.Errorf("%d rows, want %d", n, len(now.refs))
	}
	if err := os.WriteFile(x.treePath(now.path.Base()), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	again := add(t, x, 0, randomBytes(3, 200_000), eris.Size1KiB)
	if n := count(t, x); n != len(again.refs) {
		t.Errorf("%d rows, want %d", n, len(again.refs))
	}
}

func TestItems(t *testing.T) {
	x := open(t)
	for i := range 3 {
		add(t, x, i, randomBytes(byte(i), 100), eris.Size1KiB)
	}
	walk := func(unput bool) (hashes []string) {
		for after := ""; ; {
			i, err := x.Next(t.Context(), after, unput)
			if errors.Is(err, ErrNoItem) {
				return hashes
			}
			if err != nil {
				t.Fatal(err)
			}
			after = i.Hash
			hashes = append(hashes, i.Hash[31:]+i.Manifest)
		}
	}
	if err := x.SetManifest(t.Context(), testPath(t, 1).Hash, "bafy"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(walk(false), walk(true)); got != "[0 1bafy 2] [0 2]" {
		t.Errorf("got %s", got)
	}
	if err := x.SetManifest(t.Context(), testPath(t, 1).Hash, ""); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(walk(true)); got != "[0 1 2]" {
		t.Errorf("got %s", got)
	}
	if err := x.SetManifest(t.Context(), testPath(t, 9).Hash, "bafy"); !errors.Is(err, ErrNoItem) {
		t.Errorf("got %v", err)
	}
}

// Contents gives references and blocks in the order of the tree.
func TestContent(t *testing.T) {
	x := open(t)
	it := add(t, x, 0, randomBytes(1, 300_000), eris.Size1KiB)
	c, err := x.Open(t.Context(), it.path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := slices.Collect(c.Refs()); !slices.Equal(got, it.refs) || c.Err() != nil {
		t.Errorf("%d references, want %d; %v", len(got), len(it.refs), c.Err())
	}
	var refs []eris.Ref
	err = c.Blocks(t.Context(), func(ref eris.Ref, b []byte) error {
		refs = append(refs, ref)
		if !bytes.Equal(b, it.blocks[ref]) {
			t.Errorf("wrong bytes for %s", ref)
		}
		return nil
	})
	if err != nil || !slices.Equal(refs, it.refs) {
		t.Errorf("%d blocks, want %d; %v", len(refs), len(it.refs), err)
	}
	if c.ReadCap() != it.cap || c.c.length != 300_000 {
		t.Errorf("%v, %d bytes", c.ReadCap(), c.c.length)
	}
	// A tree file that is cut while it is open.
	truncate(t, x.treePath(it.path.Base()), 1000)
	if got := slices.Collect(c.Refs()); len(got) >= len(it.refs) || c.Err() == nil {
		t.Errorf("%d references, %v", len(got), c.Err())
	}
	if err := c.Blocks(t.Context(), nil); err == nil {
		t.Error("Blocks goes on after an error of Refs")
	}
	if _, err := x.Open(t.Context(), testPath(t, 9).Hash); !errors.Is(err, ErrNoItem) {
		t.Errorf("got %v", err)
	}
}

func TestRows(t *testing.T) {
	x := open(t)
	it := add(t, x, 0, randomBytes(1, 100_000), eris.Size1KiB)
	other := add(t, x, 1, make([]byte, 20_000), eris.Size1KiB) // equal leaves
	extra := func() (got []string) {
		err := x.ExtraRows(t.Context(), func(hash string, rows int64) error {
			got = append(got, fmt.Sprint(hash, " ", rows))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, it := range []*testItem{it, other} {
		if n, err := x.MissingRows(t.Context(), it.path.Hash); n != 0 || err != nil {
			t.Errorf("%d rows missing, %v", n, err)
		}
	}
	if got := extra(); got != nil {
		t.Errorf("rows too many: %v", got)
	}
	for _, query := range []string{
		`DELETE FROM blocks WHERE item = 1 AND node < 3`,
		`INSERT INTO blocks VALUES (5, 1, 5), (5, 77, 5), (6, 78, 6)`,
	} {
		if _, err := x.db.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := x.MissingRows(t.Context(), it.path.Hash); n != 3 || err != nil {
		t.Errorf("%d rows missing, %v", n, err)
	}
	want := []string{" 2", it.path.Hash + " -2"}
	if got := extra(); !slices.Equal(got, want) {
		t.Errorf("rows too many: %q, want %q", got, want)
	}
	if err := x.DropOrphans(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := extra(); !slices.Equal(got, want[1:]) {
		t.Errorf("rows too many: %q", got)
	}
}

// Each disk operation of a commit fails in turn. The item is then in the index
// whole, or another commit puts it there.
func TestCommitFaults(t *testing.T) {
	stop := errors.New("no disk")
	for n := 1; ; n++ {
		x := open(t)
		old := add(t, x, 0, randomBytes(1, 100_000), eris.Size1KiB)
		ops := 0
		restore := durable.SetFaultForTest(func(op, path string) error {
			if ops++; ops == n {
				return fmt.Errorf("%s: %w", op, stop)
			}
			return nil
		})
		err := commit(t.Context(), t, x, randomBytes(2, 50_000))
		restore()
		if err != nil && !errors.Is(err, stop) {
			t.Fatal(err)
		}
		if err == nil && ops < n {
			break // no operation is left
		}
		if got := found(t, x, old, old.refs); got != len(old.refs) && got != 0 {
			t.Errorf("operation %d: %d blocks of the old item are left", n, got)
		}
		now := add(t, x, 0, randomBytes(3, 50_000), eris.Size1KiB)
		if got := found(t, x, now, now.refs); got != len(now.refs) || count(t, x) != len(now.refs) {
			t.Errorf("operation %d: then %d blocks and %d rows of %d", n, got, count(t, x), len(now.refs))
		}
		if n > 100 {
			t.Fatal("no end")
		}
	}
}

func commit(ctx context.Context, t *testing.T, x *Index, content []byte) error {
	t.Helper()
	w, err := x.NewWriter(testPath(t, 0))
	if err != nil {
		return err
	}
	c, n, err := eris.Encode(bytes.NewReader(content), eris.Size1KiB, eris.Secret{}, w.Add)
	if err != nil {
		return errors.Join(err, w.Abort())
	}
	return w.Commit(ctx, c, n, "nar/zstd/x")
}

// A commit that is given up leaves no tree file of an item that is not there, and
// what was there stays.
func TestCommitGivenUp(t *testing.T) {
	x := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	content := randomBytes(1, 50_000)
	if err := commit(ctx, t, x, content); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	tree := filepath.Join(x.dir, TreeDir, testPath(t, 0).Base())
	if _, err := os.Stat(tree); !errors.Is(err, fs.ErrNotExist) || count(t, x) != 0 {
		t.Errorf("tree file: %v; %d rows", err, count(t, x))
	}
	it := add(t, x, 0, content, eris.Size1KiB)
	if err := commit(ctx, t, x, content); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if got := found(t, x, it, it.refs); got != len(it.refs) {
		t.Errorf("%d blocks of %d", got, len(it.refs))
	}
}

// All items come, by pages that read no more than they give.
func TestItemsByPages(t *testing.T) {
	x := open(t)
	want := 2*pageItems + 1
	for n := range want {
		if _, err := x.db.Exec(`INSERT INTO items (hash, base, nar, rows) VALUES (?, ?, 'nar', 0)`, fmt.Sprintf("%05d", want-n), fmt.Sprint(n)); err != nil {
			t.Fatal(err)
		}
	}
	for _, stop := range []int{1, pageItems, pageItems + 1, want} {
		n := 0
		for i, err := range x.Items(t.Context()) {
			n++
			if err != nil || i.Hash != fmt.Sprintf("%05d", n) || i.Base != fmt.Sprint(want-n) {
				t.Fatalf("item %d: %+v, %v", n, i, err)
			}
			if n == stop && stop < want {
				break
			}
		}
		if n != stop {
			t.Errorf("%d items of %d", n, stop)
		}
	}
	var id, parent, unused int
	var plan string
	err := x.db.QueryRowContext(t.Context(), "EXPLAIN QUERY PLAN "+pageQuery, "", 1).Scan(&id, &parent, &unused, &plan)
	if err != nil || plan != "SEARCH items USING INDEX sqlite_autoindex_items_1 (hash>?)" {
		t.Errorf("%q, %v", plan, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range x.Items(ctx) {
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

func TestNextReadsOneRow(t *testing.T) {
	x := open(t)
	for unput, want := range map[bool]string{false: "SEARCH items USING INDEX sqlite_autoindex_items_1 (hash>?)",
		true: "SEARCH items USING INDEX unput (hash>?)"} {
		var id, parent, unused int
		var plan string
		err := x.db.QueryRowContext(t.Context(), "EXPLAIN QUERY PLAN "+nextQuery(unput), "").Scan(&id, &parent, &unused, &plan)
		if err != nil || plan != want {
			t.Errorf("unput %v: %q, %v", unput, plan, err)
		}
	}
}
