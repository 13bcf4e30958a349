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
