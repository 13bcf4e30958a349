package narindex

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"ersatz/eris"
	"ersatz/storepath"
)

// testItem is an item in a cache folder, with the blocks that the encoder made.
type testItem struct {
	path   storepath.Path
	nar    string
	cap    eris.ReadCap
	refs   []eris.Ref // in the order of the tree
	blocks map[eris.Ref][]byte
}

func testPath(t testing.TB, n int) storepath.Path {
	t.Helper()
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	hash := bytes.Repeat([]byte{'a'}, 32)
	hash[30], hash[31] = digits[n/32], digits[n%32]
	p, err := storepath.Parse("/gnu/store/" + string(hash) + "-item-1.0")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// add encodes content into the index, as the baker does.
func add(t testing.TB, x *Index, n int, content []byte, size eris.BlockSize) *testItem {
	t.Helper()
	it := &testItem{path: testPath(t, n), blocks: map[eris.Ref][]byte{}}
	it.nar = "nar/zstd/" + it.path.Base()
	file := filepath.Join(x.dir, it.nar)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	w, err := x.NewWriter(it.path)
	if err != nil {
		t.Fatal(err)
	}
	var levels [][]eris.Ref
	c, length, err := eris.Encode(bytes.NewReader(content), size, eris.Secret{}, func(b eris.Block) error {
		if b.Level == len(levels) {
			levels = append(levels, nil)
		}
		levels[b.Level] = append(levels[b.Level], b.Ref)
		it.blocks[b.Ref] = bytes.Clone(b.Data)
		return w.Add(b)
	})
	if err != nil {
		t.Fatal(err)
	}
	it.cap = c
	it.refs = slices.Concat(levels...)
	if err := w.Commit(t.Context(), c, length, it.nar); err != nil {
		t.Fatal(err)
	}
	return it
}

func open(t testing.TB) *Index {
	t.Helper()
	x, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

// count returns how many rows the table of blocks has.
func count(t testing.TB, x *Index) (n int) {
	t.Helper()
	if err := x.db.QueryRow(`SELECT count(*) FROM blocks`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// found returns how many of the references the index gives, by batches and
// one by one, and fails the test if it gives other bytes.
func found(t testing.TB, x *Index, it *testItem, refs []eris.Ref) int {
	t.Helper()
	got := 0
	for part := range slices.Chunk(refs, 512) {
		next := 0
		err := x.Batch(t.Context(), part, func(i int, b []byte) error {
			if i != next {
				t.Fatalf("block %d comes where %d should", i, next)
			}
			next++
			if b == nil {
				return nil
			}
			got++
			if !bytes.Equal(b, it.blocks[part[i]]) {
				t.Fatalf("wrong bytes for block %d", i)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if next != len(part) {
			t.Fatalf("%d blocks answered of %d", next, len(part))
		}
	}
	return got
}

// damage changes one byte of a file.
func damage(t testing.TB, file string, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if off < 0 {
		if off, err = f.Seek(off, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}
