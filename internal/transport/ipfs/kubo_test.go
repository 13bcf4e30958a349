package ipfs_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
)

// item is the blocks of one content.
type item struct {
	cap     eris.ReadCap
	content []byte
	refs    []eris.Ref
	blocks  [][]byte
}

func newItem(t testing.TB, seed byte, length int, size eris.BlockSize) *item {
	t.Helper()
	it := &item{content: make([]byte, length)}
	rng := rand.NewChaCha8([32]byte{seed})
	if _, err := rng.Read(it.content); err != nil {
		t.Fatal(err)
	}
	var err error
	it.cap, _, err = eris.Encode(bytes.NewReader(it.content), size, eris.Secret{}, func(b eris.Block) error {
		it.refs = append(it.refs, b.Ref)
		it.blocks = append(it.blocks, slices.Clone(b.Data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return it
}

func (it *item) seq() iter.Seq[eris.Ref] { return slices.Values(it.refs) }

func (it *item) emit(emit func(eris.Ref, []byte) error) error {
	for i, ref := range it.refs {
		if err := emit(ref, it.blocks[i]); err != nil {
			return err
		}
	}
	return nil
}

func newClient(t testing.TB, api string) *ipfs.Client {
	t.Helper()
	c, err := ipfs.New(api, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.BlockTimeout = time.Second
	return c
}

func put(t testing.TB, c *ipfs.Client, it *item) string {
	t.Helper()
	manifest, err := c.Put(t.Context(), it.cap.Root, it.seq(), it.emit)
	if err != nil {
		t.Fatal(err)
	}
	return manifest
}

// has returns which of refs the daemon hands out, and checks their bytes.
func has(t testing.TB, c *ipfs.Client, size eris.BlockSize, refs []eris.Ref) int {
	t.Helper()
	var mu sync.Mutex
	n := 0
	err := c.Fetch(t.Context(), size, refs, func(i int, block []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if eris.BlockRef(block) != refs[i] {
			t.Errorf("block %d: wrong bytes", i)
		}
		n++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// contents returns the CIDs of a daemon's blocks and pins, sorted.
func contents(t testing.TB, d *kubotest.Daemon) string {
	t.Helper()
	lines := strings.Split(d.Run(t, "refs", "local")+"\n"+d.Run(t, "pin", "ls"), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestKuboPutFetchRemove(t *testing.T) {
	d := kubotest.Start(t)
	c := newClient(t, d.API)
	if v, err := c.Version(t.Context()); err != nil || v != "0.40.1" {
		t.Fatalf("version %q, %v", v, err)
	}
	empty := contents(t, d)
	it := newItem(t, 1, 2000*int(eris.Size32KiB), eris.Size32KiB)
	start := time.Now()
	manifest := put(t, c, it)
	t.Logf("put: %.0f blocks/s", float64(len(it.refs))/time.Since(start).Seconds())

	start = time.Now()
	r := eris.NewReader(t.Context(), it.cap, c, eris.ReaderOptions{})
	defer r.Close()
	var got bytes.Buffer
	if _, err := r.WriteTo(&got); err != nil {
		t.Fatal(err)
	}
	t.Logf("get: %.0f blocks/s", float64(len(it.refs))/time.Since(start).Seconds())
	if !bytes.Equal(got.Bytes(), it.content) {
		t.Fatal("content differs")
	}

	if pins := d.Run(t, "pin", "ls", "--type=recursive", "--quiet"); !slices.Contains(strings.Fields(pins), manifest) {
		t.Fatalf("%s is not among the pins %q", manifest, pins)
	}
	d.Run(t, "repo", "gc")
	if n := has(t, c, eris.Size32KiB, it.refs[:50]); n != 50 {
		t.Fatalf("%d of 50 blocks are left after a garbage collection", n)
	}

	// Once more, as after a crash.
	if again := put(t, c, it); again != manifest {
		t.Fatalf("second manifest %s, first %s", again, manifest)
	}
	if err := c.Remove(t.Context(), manifest, it.seq()); err != nil {
		t.Fatal(err)
	}
	if left := contents(t, d); left != empty {
		t.Fatalf("left in the repository:\n%.500s", left)
	}
	if n := has(t, c, eris.Size32KiB, it.refs[:40]); n != 0 {
		t.Fatalf("%d blocks after removal", n)
	}
	if err := c.Remove(t.Context(), manifest, it.seq()); err != nil {
		t.Fatalf("second removal: %v", err)
	}
}

// A block that two items share stays until both are gone.
func TestKuboSharedBlocks(t *testing.T) {
	c := newClient(t, kubotest.Start(t).API)
	a := newItem(t, 1, 40<<10, eris.Size1KiB)
	b := newItem(t, 2, 40<<10, eris.Size1KiB)
	b.refs = append(b.refs, a.refs[:10]...)
	b.blocks = append(b.blocks, a.blocks[:10]...)
	manifestA, manifestB := put(t, c, a), put(t, c, b)
	if err := c.Remove(t.Context(), manifestA, a.seq()); err != nil {
		t.Fatal(err)
	}
	if n := has(t, c, eris.Size1KiB, b.refs); n != len(b.refs) {
		t.Fatalf("%d of the other item's %d blocks are left", n, len(b.refs))
	}
	if err := c.Remove(t.Context(), manifestB, b.seq()); err != nil {
		t.Fatal(err)
	}
	if n := has(t, c, eris.Size1KiB, b.refs[len(b.refs)-10:]); n != 0 {
		t.Fatalf("%d shared blocks after both items were removed", n)
	}
}

// 6,500 blocks need a manifest of two levels.
func TestKuboManifestOfTwoLevels(t *testing.T) {
	d := kubotest.Start(t)
	c := newClient(t, d.API)
	empty := contents(t, d)
	it := newItem(t, 3, 6500<<10, eris.Size1KiB)
	manifest := put(t, c, it)
	if n := len(strings.Fields(d.Run(t, "refs", manifest))); n != 2 {
		t.Fatalf("the manifest's root has %d links, want 2", n)
	}
	distinct := map[eris.Ref]bool{}
	for _, ref := range it.refs {
		distinct[ref] = true
	}
	if n := len(strings.Fields(d.Run(t, "refs", "--recursive", "--unique", manifest))); n != 2+len(distinct) {
		t.Fatalf("the manifest leads to %d blocks, want %d", n, 2+len(distinct))
	}
	if err := c.Remove(t.Context(), manifest, it.seq()); err != nil {
		t.Fatal(err)
	}
	if left := contents(t, d); left != empty {
		t.Fatalf("left in the repository:\n%.500s", left)
	}
}

// A client's own daemon gets the blocks from the publisher's.
func TestKuboFromPeer(t *testing.T) {
	publisher, mine := kubotest.Start(t), kubotest.Start(t)
	it := newItem(t, 4, 300*int(eris.Size32KiB), eris.Size32KiB)
	put(t, newClient(t, publisher.API), it)
	mine.Connect(t, publisher)
	c := newClient(t, mine.API)
	c.BlockTimeout = 20 * time.Second
	r := eris.NewReader(t.Context(), it.cap, c, eris.ReaderOptions{})
	defer r.Close()
	var got bytes.Buffer
	start := time.Now()
	if _, err := r.WriteTo(&got); err != nil {
		t.Fatal(err)
	}
	t.Logf("get from a peer: %.0f blocks/s", float64(len(it.refs))/time.Since(start).Seconds())
	if !bytes.Equal(got.Bytes(), it.content) {
		t.Fatal("content differs")
	}
}

func TestKuboMissingBlock(t *testing.T) {
	c := newClient(t, kubotest.Start(t).API)
	c.BlockTimeout = 200 * time.Millisecond
	it := newItem(t, 5, 3<<10, eris.Size1KiB)
	put(t, c, it)
	refs := append([]eris.Ref{{1}, {2}}, it.refs...)
	if n := has(t, c, eris.Size1KiB, refs); n != len(it.refs) {
		t.Fatalf("%d blocks, want %d", n, len(it.refs))
	}
}

// A CAR with a wrong block is refused and nothing is pinned.
func TestKuboRefusesWrongBlock(t *testing.T) {
	d := kubotest.Start(t)
	c := newClient(t, d.API)
	empty := d.Run(t, "pin", "ls")
	it := newItem(t, 6, 100<<10, eris.Size1KiB)
	it.blocks[50] = bytes.Repeat([]byte{7}, 1024)
	_, err := c.Put(t.Context(), it.cap.Root, it.seq(), it.emit)
	if e := (*ipfs.RPCError)(nil); !errors.As(err, &e) {
		t.Fatalf("error is %v, want the daemon's", err)
	}
	if pins := d.Run(t, "pin", "ls"); pins != empty {
		t.Fatalf("pinned: %q", pins)
	}
}

// A CAR that lacks a block is not pinned either, and a second, whole one is.
func TestKuboResumesPut(t *testing.T) {
	c := newClient(t, kubotest.Start(t).API)
	it := newItem(t, 7, 200<<10, eris.Size1KiB)
	cut := errors.New("cut")
	n := 0
	_, err := c.Put(t.Context(), it.cap.Root, it.seq(), func(emit func(eris.Ref, []byte) error) error {
		return it.emit(func(ref eris.Ref, data []byte) error {
			if n++; n > 100 {
				return cut
			}
			return emit(ref, data)
		})
	})
	if !errors.Is(err, cut) {
		t.Fatalf("error is %v, want that of the blocks", err)
	}
	put(t, c, it)
	if n := has(t, c, eris.Size1KiB, it.refs); n != len(it.refs) {
		t.Fatalf("%d blocks, want %d", n, len(it.refs))
	}
}

func TestKuboStopsInMidFetch(t *testing.T) {
	d := kubotest.Start(t)
	c := newClient(t, d.API)
	it := newItem(t, 8, 100<<10, eris.Size1KiB)
	put(t, c, it)
	d.Stop()
	err := c.Fetch(t.Context(), eris.Size1KiB, it.refs, func(int, []byte) error { return nil })
	if err == nil || !strings.Contains(err.Error(), d.API) {
		t.Fatalf("error is %v, want one that names %s", err, d.API)
	}
	if errors.Is(err, context.Canceled) {
		t.Fatalf("the cause is hidden: %v", err)
	}
}

func BenchmarkKubo(b *testing.B) {
	c := newClient(b, kubotest.Start(b).API)
	it := newItem(b, 9, 2000*int(eris.Size32KiB), eris.Size32KiB)
	b.Run("put", func(b *testing.B) {
		for b.Loop() {
			put(b, c, it)
		}
		b.ReportMetric(float64(b.N*len(it.refs))/b.Elapsed().Seconds(), "blocks/s")
	})
	b.Run("get", func(b *testing.B) {
		for b.Loop() {
			if n := has(b, c, eris.Size32KiB, it.refs); n != len(it.refs) {
				b.Fatal(n)
			}
		}
		b.ReportMetric(float64(b.N*len(it.refs))/b.Elapsed().Seconds(), "blocks/s")
	})
}
