package bench

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestTrips: of stations that worked together the last one's time counts, and
// the greatest memory; where there is no node, there is no memory of one.
func TestTrips(t *testing.T) {
	all := []trip{
		{wall: 2 * time.Second, sent: 7, peak: 10 << 20, node: 30 << 20},
		{wall: 3 * time.Second, sent: 7, peak: 9 << 20, node: 20 << 20},
		{wall: time.Second, sent: 7},
	}
	sum := summary(all)
	if want := (trip{wall: 3 * time.Second, sent: 7, peak: 10 << 20, node: 30 << 20}); sum != want {
		t.Errorf("%+v", sum)
	}
	var f trips
	for _, x := range all {
		f.add(x)
	}
	if !slices.Equal(f.wall, series{2, 3, 1}) || !slices.Equal(f.node, series{30 << 20, 20 << 20}) || len(f.peak) != 3 {
		t.Errorf("%+v", f)
	}
	for _, c := range []struct {
		of   series
		want string
	}{{sum.nodeMemory(), "30.0 MiB"}, {f.node, "25.0 MiB [20.0, 30.0]"}, {all[2].nodeMemory(), "no node"}} {
		if got := memory(c.of); got != c.want {
			t.Errorf("%v is %q, not %q", c.of, got, c.want)
		}
	}
}

// TestUntil: it ends with the condition, with the condition's error, with what
// it is in the middle of, or with ctx.
func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := 0
		third := func() (bool, error) { count++; return count == 3, nil }
		begin := time.Now()
		if err := until(t.Context(), nil, third); err != nil || count != 3 || time.Since(begin) != 40*time.Millisecond {
			t.Errorf("%v after %d times, %v", err, count, time.Since(begin))
		}
		never := func() (bool, error) { return false, nil }
		broken := errors.New("broken")
		if err := until(t.Context(), nil, func() (bool, error) { return false, broken }); !errors.Is(err, broken) {
			t.Error(err)
		}
		done := make(chan struct{})
		close(done)
		if err := until(t.Context(), done, never); err == nil {
			t.Error("the middle of what is over")
		}
		if err := until(t.Context(), done, func() (bool, error) { return true, nil }); err != nil {
			t.Errorf("reached: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := until(ctx, nil, never); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// TestSharing: each way has flags of its own.
func TestSharing(t *testing.T) {
	a, b := nodeWay().sharing("http://a:1", "http://b:2"), nodeWay().sharing()
	if !slices.Contains(a.flags, "--peer=http://a:1") || !slices.Contains(a.flags, "--peer=http://b:2") || !slices.Contains(b.flags, "--share=lan") ||
		len(b.flags) != len(a.flags)-2 || len(nodeWay().flags) != 0 || a.name != b.name {
		t.Errorf("%+v, %+v", a, b)
	}
}
