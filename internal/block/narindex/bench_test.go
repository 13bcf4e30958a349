package narindex

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"ersatz/eris"
	"ersatz/internal/torrent"
)

const benchSize = 64 << 20

// BenchmarkBatch is what a server does per block: look it up, read, encrypt,
// hash.
func BenchmarkBatch(b *testing.B) {
	x := open(b)
	it := add(b, x, 0, randomBytes(1, benchSize), eris.Size32KiB)
	b.SetBytes(512 * int64(eris.Size32KiB))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		from := i * 512 % (len(it.refs) - 512)
		err := x.Batch(b.Context(), it.refs[from:from+512], func(_ int, block []byte) error {
			if block == nil {
				b.Fatal("a block is missing")
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGet is one block at a time, as other ERIS clients ask.
func BenchmarkGet(b *testing.B) {
	x := open(b)
	it := add(b, x, 0, randomBytes(1, benchSize), eris.Size32KiB)
	b.SetBytes(int64(eris.Size32KiB))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := x.Get(b.Context(), it.refs[i*7919%len(it.refs)]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCommit is adding and replacing the rows of an item, per byte of its
// nar. It reports what an index of 1 GiB of nars in 16 items takes on disk.
func BenchmarkCommit(b *testing.B) {
	x := open(b)
	content := bytes.Repeat(randomBytes(1, 1<<20), benchSize>>20)
	b.SetBytes(benchSize)
	for i := 0; b.Loop(); i++ {
		// Each item is another one: equal leaves would share their rows.
		for leaf := 0; leaf < len(content); leaf += int(eris.Size32KiB) {
			content[leaf] = byte(i)
			content[leaf+1] = byte(leaf >> 15)
			content[leaf+2] = byte(leaf >> 23)
		}
		b.StopTimer()
		w, err := x.NewWriter(testPath(b, i%16))
		if err != nil {
			b.Fatal(err)
		}
		c, n, err := eris.Encode(bytes.NewReader(content), eris.Size32KiB, eris.Secret{}, w.Add)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := w.Commit(b.Context(), c, n, "nar/x"); err != nil {
			b.Fatal(err)
		}
	}
}

// Bytes of index and tree files per GB of nars, which docs/cache.md states.
func TestSpace(t *testing.T) {
	x := open(t)
	const items, size = 4, 16 << 20
	for i := range items {
		add(t, x, i, randomBytes(byte(i), size), eris.Size32KiB)
	}
	if _, err := x.db.Exec(`PRAGMA wal_checkpoint(truncate)`); err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int64{}
	for _, name := range []string{File, TreeDir + "/*"} {
		names, err := filepath.Glob(filepath.Join(x.dir, name))
		if err != nil || len(names) == 0 {
			t.Fatal(names, err)
		}
		for _, n := range names {
			fi, err := os.Stat(n)
			if err != nil {
				t.Fatal(err)
			}
			sizes[name] += fi.Size()
		}
	}
	perGB := func(n int64) float64 { return float64(n) / (items * size) * 1e3 } // MB
	t.Logf("per GB of nars: index %.2f MB, tree files %.2f MB", perGB(sizes[File]), perGB(sizes[TreeDir+"/*"]))
	if all := perGB(sizes[File] + sizes[TreeDir+"/*"]); all > 4 {
		t.Errorf("index and tree files take %.2f MB per GB of nars", all)
	}
}

// BenchmarkTorrent is what the torrent of an item takes that was baked without
// one, per byte of its nar.
func BenchmarkTorrent(b *testing.B) {
	x := open(b)
	it := add(b, x, 0, randomBytes(1, benchSize), eris.Size32KiB)
	c, err := x.Open(b.Context(), it.path.Hash)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.SetBytes(benchSize)
	for b.Loop() {
		if _, err := c.HashTorrent(b.Context(), torrent.NewBuilder()); err != nil {
			b.Fatal(err)
		}
	}
}
