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
