package block_test

import (
	"context"
	"errors"
	"testing"

	"ersatz/eris"
	"ersatz/internal/block"
)

// TestSlots wants what is there, no more, and the first error of either side;
// and every slot back after each call.
func TestSlots(t *testing.T) {
	s, refs := makeRefs(t, 20)
	missing := eris.Ref{1}
	refs = append(refs, missing)
	slots := block.NewSlots(3)
	get := func(ctx context.Context, ref eris.Ref, buf []byte) ([]byte, error) {
		if len(buf) != int(eris.Size1KiB)+1 {
			t.Errorf("room for %d bytes", len(buf))
		}
		b, err := s.Get(ctx, ref)
		if errors.Is(err, eris.ErrNotFound) {
			return nil, nil
		}
		return buf[:copy(buf, b)], err
	}
	var c collect
	err := slots.Fetch(t.Context(), eris.Size1KiB, refs, get, func(i int, b []byte) error {
		if eris.BlockRef(b) != refs[i] {
			t.Errorf("block %d is another one", i)
		}
		return c.take(i, b)
	})
	if err != nil || len(c.got) != 20 {
		t.Errorf("%d blocks, %v", len(c.got), err)
	}
	broken := func(context.Context, eris.Ref, []byte) ([]byte, error) { return nil, errBroken }
	if err := slots.Fetch(t.Context(), eris.Size1KiB, refs, broken, c.take); !errors.Is(err, errBroken) {
		t.Errorf("broken source: %v", err)
	}
	refuse := func(int, []byte) error { return eris.ErrCorrupt }
	if err := slots.Fetch(t.Context(), eris.Size1KiB, refs, get, refuse); !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("refused: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	waits := func(ctx context.Context, _ eris.Ref, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := slots.Fetch(ctx, eris.Size1KiB, refs, waits, c.take); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if len(slots) != cap(slots) {
		t.Errorf("%d slots of %d came back", len(slots), cap(slots))
	}
}
