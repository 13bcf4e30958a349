package eris_test

import (
	"runtime"
	"testing"

	"ersatz/eris"
)

// discard is eris.Nodes without memory.
type discard struct{}

func (discard) Load(int, int64, []byte) (bool, error) { return false, nil }
func (discard) Store(int, int64, []byte) error        { return nil }
func (discard) Done(int, int64, eris.Ref, eris.Key)   {}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestFillMemory bounds what a filler holds: 65 bytes a leaf and little else.
func TestFillMemory(t *testing.T) {
	const n = 64 << 20
	_, c, m := encoded(t, n, eris.Size1KiB)
	before := heap()
	f := eris.NewFiller(c, discard{}, eris.FillOptions{})
	if _, err := f.Run(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	took := heap() - before
	if leaves := int64(n >> 10); took > 80*leaves+1<<20 {
		t.Errorf("%d bytes for %d leaves", took, leaves)
	}
	runtime.KeepAlive(f)
	runtime.KeepAlive(m)
}

// TestFillSmall bounds what it takes to fill a content of one block that is not
// there: a node fetches many of these at once.
func TestFillSmall(t *testing.T) {
	_, c, m := encoded(t, 1000, eris.Size32KiB)
	const runs = 10
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		if _, err := eris.NewFiller(c, discard{}, eris.FillOptions{}).Run(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if took := int(after.TotalAlloc-before.TotalAlloc) / runs; took > 6*int(eris.Size32KiB) {
		t.Errorf("%d bytes", took)
	}
}
