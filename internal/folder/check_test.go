package folder

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// Beside another process, a fault counts that two passes find; alone, that one
// finds.
func TestTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, x := range []struct {
			alone         bool
			passes, found int
		}{{false, 2, 1}, {true, 1, 2}} {
			passes := 0
			var found []Fault
			c := &Check{Alone: x.alone, Repair: true, Report: func(f Fault) { found = append(found, f) }}
			mended := 0
			err := c.Twice(t.Context(), func() error {
				passes++
				mend := func() error { mended++; return nil }
				err := c.Fault("stays", "text", mend)
				if passes == 1 {
					err = errors.Join(err, c.Fault("goes", "text", mend))
				} else {
					err = errors.Join(err, c.Fault("comes", "text", mend))
				}
				return err
			})
			if err != nil || passes != x.passes || len(found) != x.found || mended != x.found || found[0].File != "stays" {
				t.Errorf("alone %t: %v, %d passes, %v, %d mended", x.alone, err, passes, found, mended)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		c := &Check{Report: func(f Fault) { t.Error(f) }}
		if err := c.Twice(ctx, func() error { return c.Fault("a", "b", nil) }); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
