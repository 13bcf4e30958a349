package bench

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"ersatz/eris"
)

// The server of blocks and the bare loop bring the same blocks, and notice the same
// fault.
func TestBatchWorld(t *testing.T) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		w, err := newBatchWorld(t.Context(), Options{Log: slog.New(slog.DiscardHandler)}, 1<<20, size)
		if err != nil {
			t.Fatal(err)
		}
		all := func() error {
			return errors.Join(w.fetch(t.Context(), 1), w.fetch(t.Context(), 3), w.bare(t.Context(), 1), w.bare(t.Context(), 3), w.read(t.Context()))
		}
		if err := all(); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(w.dir, "nar"), make([]byte, 1<<20), 0o600); err != nil {
			t.Error(err)
		}
		if err := w.bare(t.Context(), 2); !errors.Is(err, eris.ErrCorrupt) {
			t.Errorf("the bare loop takes other bytes: %v", err)
		}
		if err := w.fetch(t.Context(), 2); err == nil {
			t.Error("the server gives other bytes")
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkBatch is for profiles of what the group measures. The metric is the time of
// processors per leaf, both sides.
func BenchmarkBatch(b *testing.B) {
	const length = 64 * mib
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		w, err := newBatchWorld(b.Context(), Options{Log: slog.New(slog.DiscardHandler)}, length, size)
		if err != nil {
			b.Fatal(err)
		}
		for name, work := range map[string]func() error{
			"one call":             func() error { return w.fetch(b.Context(), 1) },
			"limit, 2 connections": func() error { return w.bare(b.Context(), 2) },
			"4 calls":              func() error { return w.fetch(b.Context(), 4) },
			"limit, 4 connections": func() error { return w.bare(b.Context(), 4) },
			"reader":               func() error { return w.read(b.Context()) },
		} {
			b.Run(size.String()+"/"+name, func(b *testing.B) {
				b.SetBytes(length)
				cpu := 0.0
				for b.Loop() {
					u, err := inProcess(work)
					if err != nil {
						b.Fatal(err)
					}
					cpu += float64(u.cpu.Nanoseconds())
				}
				b.ReportMetric(cpu/float64(b.N*len(w.refs)), "cpu-ns/block")
			})
		}
		if err := w.close(); err != nil {
			b.Fatal(err)
		}
	}
}
