package fetch_test

import (
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/fetch"
)

// TestThroughput compares a mix with its sources alone, in fake time. The
// ratio is the mix's speed to that of the sum, or of the best one.
func TestThroughput(t *testing.T) {
	type line struct{ first, pace time.Duration } // without a pace, it lacks all
	for name, c := range map[string]struct {
		lines []line
		of    string // "sum" or "best"
		ratio float64
	}{
		"equal":              {[]line{{20 * ms, 2 * ms}, {20 * ms, 2 * ms}}, "sum", 0.95},
		"one twice as fast":  {[]line{{20 * ms, 2 * ms}, {20 * ms, 4 * ms}}, "sum", 0.95},
		"four times":         {[]line{{20 * ms, 8 * ms}, {20 * ms, 2 * ms}}, "sum", 0.9},
		"three":              {[]line{{5 * ms, 6 * ms}, {5 * ms, 6 * ms}, {5 * ms, 3 * ms}}, "sum", 0.95},
		"ten times":          {[]line{{20 * ms, 2 * ms}, {20 * ms, 20 * ms}}, "best", 0.98},
		"very slow":          {[]line{{20 * ms, 2 * ms}, {20 * ms, 5 * time.Second}}, "best", 0.98},
		"very slow first":    {[]line{{20 * ms, 5 * time.Second}, {20 * ms, 2 * ms}}, "best", 0.95},
		"far away":           {[]line{{5 * ms, 2 * ms}, {300 * ms, 2 * ms}}, "best", 0.99},
		"empty":              {[]line{{20 * ms, 0}, {20 * ms, 2 * ms}}, "best", 0.95},
		"empty, and slow":    {[]line{{time.Second, 0}, {20 * ms, 2 * ms}}, "best", 0.95},
		"local, and network": {[]line{{0, 10 * time.Microsecond}, {20 * ms, ms}}, "best", 0.75},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 8000
				var fakes []*fake
				want := 0.0 // blocks a second
				for _, l := range c.lines {
					f := newFake(l.first, l.pace)
					fakes = append(fakes, f)
					if l.pace == 0 {
						f.lacks = func(eris.Ref) bool { return true }
						continue
					}
					alone := n / read(t, mix(fetch.Options{}, newFake(l.first, l.pace)), n).Seconds()
					if c.of == "sum" {
						want += alone
					} else {
						want = max(want, alone)
					}
				}
				m := mix(fetch.Options{}, fakes...)
				rate := n / read(t, m, n).Seconds()
				sent := 0
				for _, f := range fakes {
					sent += f.sent
				}
				t.Logf("%.0f blocks/s of %.0f, %.3f; %d sent in vain; %+v", rate, want, rate/want, sent-n, m.Stats())
				if rate < want*c.ratio {
					t.Errorf("ratio is %.3f, want %.3f", rate/want, c.ratio)
				}
				if sent > n*11/10 {
					t.Errorf("%d blocks were sent for %d", sent, n)
				}
				for _, s := range m.Stats() {
					if s.Err != nil {
						t.Errorf("%+v", s)
					}
				}
			})
		})
	}
}

// TestSlowIsNotDead: 50 kbit/s is 5.2 s for a block of 32 KiB, less than
// Stall, however many calls there are.
func TestSlowIsNotDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mix(fetch.Options{}, newFake(100*ms, 5200*ms))
		if d := read(t, m, 300); d > 300*5400*ms {
			t.Errorf("took %v", d)
		}
		if s := m.Stats()[0]; s.Err != nil {
			t.Error(s.Err)
		}
	})
}

// TestTwoSlow has two such lines help each other out at the end of each call.
func TestTwoSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mix(fetch.Options{}, newFake(100*ms, 5200*ms), newFake(100*ms, 4*time.Second))
		if d := read(t, m, 300); d > 300*2500*ms {
			t.Errorf("took %v", d)
		}
		for _, s := range m.Stats() {
			if s.Err != nil || s.Blocks < 90 {
				t.Errorf("%+v", s)
			}
		}
	})
}

// TestHedge has the best source fall silent in the middle: single blocks come
// from the next after some usual times of the best, not after a stall.
func TestHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFake(10*ms, ms), newFake(10*ms, 5*ms)
		m := mix(fetch.Options{}, a, b)
		read(t, m, 640)
		a.fault = func(int, int) error { return errHang }
		for i := range 3 {
			start := time.Now()
			k := take(t, 1000+i, 1)
			if err := k.fetch(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			k.whole()
			if d := time.Since(start); d > 150*ms {
				t.Errorf("a block came after %v", d)
			}
		}
		if err := m.Stats()[0].Err; err != nil {
			t.Error("dropped, although it was never asked for 10 s on end:", err)
		}
	})
}

// TestNodesFirst: an internal node goes before the leaves that were asked for
// earlier.
func TestNodesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mix(fetch.Options{}, newFake(ms, 100*ms))
		var ends []time.Time
		leaves := make(chan struct{})
		go func() {
			defer close(leaves)
			take(t, 0, 256).fetch(t.Context(), m)
			ends = append(ends, time.Now())
		}()
		time.Sleep(time.Second)
		start := time.Now()
		take(t, 999, 1).fetch(t.Context(), m)
		node := time.Since(start)
		<-leaves
		if rest := time.Since(start); node > rest/4 {
			t.Errorf("the node came after %v, the leaves after %v", node, rest)
		}
	})
}

// TestBest wants single blocks from the best source, others spared.
func TestBest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFake(50*ms, ms), newFake(5*ms, ms)
		m := mix(fetch.Options{}, a, b)
		read(t, m, 2000)
		sent := a.sent
		for i := range 50 {
			if err := take(t, 5000+i, 1).fetch(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		if a.sent != sent {
			t.Errorf("the farther source sent %d of 50", a.sent-sent)
		}
	})
}
