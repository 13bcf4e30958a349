package narindex

import (
	"context"
	"errors"
	"testing"

	"ersatz/eris"
)

func TestSizeOf(t *testing.T) {
	for n, want := range map[int]int{1: 0, 2: 1, 3: 1, 4: 2, 63: 5, 64: 6, 65: 6, 1 << 20: 6} {
		if got := sizeOf(n); got != want {
			t.Errorf("%d rows: %d, want %d", n, got, want)
		}
	}
}

// However many rows an item has, all come, and all go.
func TestRowCounts(t *testing.T) {
	x := open(t)
	for n := range 2*rowsPerStatement + 5 {
		it := add(t, x, 0, randomBytes(byte(n), n<<10), eris.Size1KiB) // in place of the one before
		if got := found(t, x, it, it.refs); got != len(it.refs) || count(t, x) != got {
			t.Fatalf("%d blocks found, %d rows, want %d", got, count(t, x), len(it.refs))
		}
	}
	if err := x.Remove(t.Context(), testPath(t, 0).Hash); err != nil || count(t, x) != 0 {
		t.Errorf("%d rows are left, %v", count(t, x), err)
	}
}

func TestItemGivenUp(t *testing.T) {
	x := open(t)
	it := add(t, x, 0, randomBytes(1, 5000), eris.Size1KiB)
	ctx, cancel := context.WithCancel(t.Context())
	if i, err := x.Next(ctx, "", true); err != nil || i.Hash != testPath(t, 0).Hash {
		t.Errorf("%+v, %v", i, err)
	}
	cancel()
	_, err := x.Item(ctx, testPath(t, 0).Hash)
	if _, next := x.Next(ctx, "", false); !errors.Is(err, context.Canceled) || !errors.Is(next, context.Canceled) {
		t.Errorf("%v, %v", err, next)
	}
	if got := found(t, x, it, it.refs); got != len(it.refs) {
		t.Errorf("%d blocks", got)
	}
}
