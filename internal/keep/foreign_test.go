package keep

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestForeign: a folder with nars of others stays as it is.
func TestForeign(t *testing.T) {
	dir := t.TempDir()
	nar := filepath.Join(dir, "nar", "zstd", "00000000000000000000000000000001-a")
	if err := os.MkdirAll(filepath.Dir(nar), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{nar, filepath.Join(dir, "nix-cache-info")} {
		if err := os.WriteFile(name, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(dir, Options{})
	if !errors.Is(err, ErrForeign) {
		if s != nil {
			s.Settle(t.Context())
			s.Close()
		}
		_, lost := os.Stat(nar)
		t.Fatalf("%v; the nar: %v", err, lost)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("%v, %v", names, err)
	}
}
