package bench

import (
	"testing"

	"ersatz/internal/storedb"
)

// TestRegisterCrowd: the store has items with as many references as is said.
func TestRegisterCrowd(t *testing.T) {
	dir := t.TempDir()
	const n = 20
	if err := registerCrowd(t.Context(), dir, n); err != nil {
		t.Fatal(err)
	}
	db, err := storedb.Open(storedb.Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i := range n {
		p := crowdItem(i)
		info, err := db.Lookup(t.Context(), p.Hash)
		if err != nil || info.Path != p || info.NarSize != crowdSize || len(info.References) != min(i, firstRefs) {
			t.Errorf("%d: %+v, %v", i, info, err)
		}
	}
}
