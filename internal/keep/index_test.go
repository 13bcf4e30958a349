package keep

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/internal/block/narindex"
	"ersatz/internal/folder"
)

// TestBrokenIndex: what the error says of a broken index of blocks has it made anew.
func TestBrokenIndex(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	x := makeThing(t, 0, 100_000)
	put(t, s, x)
	want := served(t, s.Blocks(nil), x)
	closing(t, s)

	index := filepath.Join(dir, filepath.FromSlash(narindex.File))
	if err := os.WriteFile(index, []byte(strings.Repeat("no database", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, Options{})
	if err == nil {
		closing(t, s)
	}
	if err == nil || !strings.Contains(err.Error(), index) || !strings.Contains(err.Error(), "remove this file") {
		t.Fatal(err)
	}
	if err := os.Remove(index); err != nil {
		t.Fatal(err)
	}
	repaired := 0
	err = Fsck(t.Context(), dir, CheckOptions{Repair: true}, func(f folder.Fault) {
		if f.Repaired {
			repaired++
		}
	})
	if err != nil || repaired == 0 {
		t.Fatalf("%d repaired, %v", repaired, err)
	}
	s = open(t, dir, Options{})
	defer closing(t, s)
	kept(t, s, x)
	if got := served(t, s.Blocks(nil), x); got != want || want == 0 {
		t.Errorf("%d blocks, %d before", got, want)
	}
}
