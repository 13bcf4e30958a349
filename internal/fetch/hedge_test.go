package fetch_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/fetch"
)

// silent says nothing for a long time, and then that it has nothing.
func silent(d time.Duration) *fake {
	f := newFake(d, 0)
	f.lacks = func(eris.Ref) bool { return true }
	return f
}

func dead() *fake {
	f := newFake(0, 0)
	f.fault = func(int, int) error { return errHang }
	return f
}

// A block is asked of one source after the other while all that were asked for it
// say nothing: it does not wait until these have been given up.
func TestManyAreSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := newFake(50*ms, ms)
		m := mix(fetch.Options{}, dead(), silent(8*time.Second), silent(9*time.Second), good)
		start := time.Now()
		root := take(t, 0, 1)
		if err := root.fetch(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		root.whole()
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("the root took %v", d)
		}
		// Who has been silent is not trusted with anything that somebody else could give.
		start = time.Now()
		rest := take(t, 1, 100)
		if err := rest.fetch(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		rest.whole()
		if d := time.Since(start); d > time.Second {
			t.Errorf("the rest took %v", d)
		}
	})
}

// A source that gives up when nothing came in time, as HTTP does, is not asked again.
func TestTimeoutIsNotForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := newFake(9900*ms, 0)
		late.fault = func(int, int) error { return errBroken }
		start := time.Now()
		err := take(t, 0, 1).fetch(t.Context(), mix(fetch.Options{}, late))
		if d := time.Since(start); err == nil || d > 10*time.Second || late.calls != 1 {
			t.Errorf("%d calls in %v: %v", late.calls, d, err)
		}
	})
}

// A source that has just become free takes over what one owes that is late, when it
// is late, and not when somebody looks next.
func TestFreeSourceTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := newFake(0, ms)
		late.fault = func(call, block int) error { return when(call > 0, errHang) }
		other := newFake(3*time.Second, ms) // one call at a time
		m := mix(fetch.Options{}, other, late)
		first := take(t, 0, 2)
		if err := first.fetch(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		other.first = ms
		start := time.Now()
		second := take(t, 2, 6)
		if err := second.fetch(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		second.whole()
		if d := time.Since(start); d > time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// Several are asked for one block only if nothing comes from them: sources that are
// slow, but give, are asked for little twice.
func TestSlowSourcesAreNotAskedManyTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fakes []*fake
		for range 5 {
			fakes = append(fakes, newFake(400*ms, 100*ms))
		}
		m := mix(fetch.Options{}, fakes...)
		k := take(t, 0, 400)
		if err := k.fetch(context.Background(), m); err != nil {
			t.Fatal(err)
		}
		k.whole()
		sent := 0
		for _, f := range fakes {
			sent += f.sent
		}
		if sent > 440 {
			t.Errorf("%d blocks were sent for 400", sent)
		}
	})
}
