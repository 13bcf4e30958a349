package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/fetch"
)

// nearAndFar is a mix of near sources (a, b, …) and one far one, which is
// given last and faster than they are.
func nearAndFar(o fetch.Options, far *fake, near ...*fake) *fetch.Mix {
	var sources []fetch.Source
	for i, f := range near {
		sources = append(sources, fetch.Source{Name: string(rune('a' + i)), Fetcher: f, Near: true})
	}
	return fetch.New(append(sources, fetch.Source{Name: "far", Fetcher: far}), o)
}

// TestNearServesAll wants nothing from the far source while a near one gives
// everything, though it is the slower one.
func TestNearServesAll(t *testing.T) {
	for name, pace := range map[string]time.Duration{"faster": ms / 10, "slower": 4 * ms} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := newFake(ms, pace), newFake(20*ms, ms)
				m := nearAndFar(fetch.Options{}, far, near)
				read(t, m, 2000)
				if far.calls > 0 || near.sent != 2000 {
					t.Errorf("the far one was asked %d times; %d came from near", far.calls, near.sent)
				}
			})
		})
	}
}

// TestTwoNear has two near sources share the work.
func TestTwoNear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, far := newFake(ms, ms), newFake(ms, ms), newFake(20*ms, ms)
		m := nearAndFar(fetch.Options{}, far, a, b)
		if d := read(t, m, 4000); d > 2200*ms || far.calls > 0 {
			t.Errorf("took %v, %d calls of the far one", d, far.calls)
		}
	})
}

// TestNearCrawls: a near source that is far slower than the far one is no
// reason to wait.
func TestNearCrawls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newFake(ms, 100*ms), newFake(20*ms, ms)
		m := fetch.New([]fetch.Source{
			{Name: "near", Fetcher: near, Near: true},
			{Name: "far", Fetcher: far, Prior: fetch.Learnt{Latency: 20 * ms, Pace: ms}},
		}, fetch.Options{})
		if d := read(t, m, 2000); d > 3*time.Second {
			t.Errorf("took %v", d)
		}
		if s := m.Stats(); s[0].Err != nil || s[0].Blocks == 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestNearStalls has a near source fall silent: the far one stands in after
// some usual times of the near one, not after the 10 s of a stall.
func TestNearStalls(t *testing.T) {
	for name, from := range map[string]int{"at once": 0, "later": 20} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := newFake(ms, ms), newFake(20*ms, ms)
				near.fault = func(call, _ int) error { return when(call >= from, errHang) }
				m := nearAndFar(fetch.Options{}, far, near)
				if d := read(t, m, 2000); d > 4*time.Second {
					t.Errorf("took %v; %d from near", d, near.sent)
				}
				if far.sent+near.sent > 2000+10 {
					t.Errorf("%d blocks were sent", far.sent+near.sent)
				}
			})
		})
	}
}

// TestNearComesBack: a near source that was quiet for a second and then gives
// again is asked before the far one again.
func TestNearComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newFake(ms, ms), newFake(20*ms, ms)
		quiet := time.Now().Add(time.Second)
		near.fault = func(int, int) error {
			if d := time.Until(quiet); d > 0 && d < 500*ms {
				time.Sleep(d)
			}
			return nil
		}
		m := nearAndFar(fetch.Options{}, far, near)
		read(t, m, 4000)
		if far.sent == 0 || far.sent > 1000 {
			t.Errorf("%d from far, %d from near", far.sent, near.sent)
		}
	})
}

// TestNearLacks wants only what the near sources lack from the far one.
func TestNearLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, other, far := newFake(ms, ms), newFake(ms, ms), newFake(20*ms, ms)
		few := func(r eris.Ref) bool { return number(r)%100 == 3 }
		near.lacks, other.lacks = few, few
		m := nearAndFar(fetch.Options{}, far, near, other)
		read(t, m, 2000)
		if far.sent != 20 {
			t.Errorf("the far one sent %d, 20 were lacking", far.sent)
		}
	})
}

// TestNearFails has near sources reset connections and lie; each is named, and
// what it owes comes from elsewhere.
func TestNearFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		liar, resets, good, far := newFake(ms, ms), newFake(ms, ms), newFake(ms, ms), newFake(20*ms, ms)
		var given atomic.Int64
		liar.lies = func(int, int) bool { return given.Add(1)%10 == 0 }
		resets.fault = func(call, block int) error { return when(call > 2 && block > 3, errBroken) }
		m := nearAndFar(fetch.Options{}, far, liar, resets, good)
		read(t, m, 4000)
		s := m.Stats()
		if !errors.Is(s[0].Err, eris.ErrCorrupt) || s[0].Blocks > 9 || !errors.Is(s[1].Err, errBroken) || s[2].Err != nil {
			t.Errorf("%+v", s)
		}
		if far.sent > 0 {
			t.Errorf("%d from far", far.sent)
		}
	})
}

// TestGrowing asks a source for what it has by now only. Nothing that it may
// still get is missing, before it has not grown for as long as a stall.
func TestGrowing(t *testing.T) {
	for name, c := range map[string]struct {
		tell   bool
		growth int // blocks in 100 ms
		end    int // where growth ends
		took   time.Duration
	}{
		"told":       {true, 10, 1000, 10 * time.Second},
		"not told":   {false, 200, 1000, 2 * time.Second},
		"never ends": {true, 10, 500, 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				has := 0
				a := newFake(ms, ms/10)
				a.lacks = func(r eris.Ref) bool {
					t.Helper()
					mu.Lock()
					defer mu.Unlock()
					if number(r) >= has {
						t.Errorf("asked for %d of %d", number(r), has)
					}
					return false
				}
				m := fetch.New([]fetch.Source{{Name: "a", Fetcher: a, Has: func(r eris.Ref) bool {
					mu.Lock()
					defer mu.Unlock()
					return number(r) < has
				}}}, fetch.Options{})
				var work sync.WaitGroup
				work.Go(func() {
					for range c.end / c.growth {
						time.Sleep(100 * ms)
						mu.Lock()
						has += c.growth
						mu.Unlock()
						if c.tell {
							m.Changed()
						}
					}
				})
				start := time.Now()
				k := take(t, 0, 1000)
				if err := k.fetch(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				d := time.Since(start)
				work.Wait()
				if len(k.times) != c.end || d < c.took-time.Second || d > c.took+1500*ms {
					t.Errorf("%d blocks in %v", len(k.times), d)
				}
			})
		})
	}
}

// TestPrior has what was learnt earlier decide who is asked first, and returns
// what is known in the end.
func TestPrior(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, fast := newFake(300*ms, 50*ms), newFake(20*ms, ms)
		run := func(a, b fetch.Learnt) ([]fetch.Stat, time.Duration) {
			slow.calls = 0
			m := fetch.New([]fetch.Source{
				{Name: "slow", Fetcher: slow, Prior: a}, {Name: "fast", Fetcher: fast, Prior: b},
			}, fetch.Options{})
			d := read(t, m, 200)
			return m.Stats(), d
		}
		s, first := run(fetch.Learnt{}, fetch.Learnt{})
		if slow.calls == 0 {
			t.Error("nothing is known, and yet one was not asked")
		}
		if l := s[1].Learnt; l.Latency < 20*ms || l.Latency > 60*ms || l.Pace < ms/2 || l.Pace > 3*ms {
			t.Errorf("learnt %+v", l)
		}
		_, again := run(fetch.Learnt{Latency: 350 * ms, Pace: 50 * ms}, s[1].Learnt)
		if slow.calls > 1 || again >= first {
			t.Errorf("first %v, then %v; %d calls of the slow one", first, again, slow.calls)
		}
		if s := fetch.New([]fetch.Source{{Prior: fetch.Learnt{Pace: -1, Latency: -1}}}, fetch.Options{}).Stats(); s[0].Learnt != (fetch.Learnt{}) {
			t.Errorf("of nothing: %+v", s[0].Learnt)
		}
	})
}

// TestPriorBlocks: a source is asked for as much at once as it was in the end by
// an earlier Mix, which saves the calls by which it was found out.
func TestPriorBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := func(prior fetch.Learnt) (fetch.Learnt, time.Duration, int) {
			f := newFake(40*ms, ms/10)
			m := fetch.New([]fetch.Source{{Name: "s", Fetcher: f, Prior: prior}}, fetch.Options{})
			d := read(t, m, 1) + read(t, m, 300)
			return m.Stats()[0].Learnt, d, f.calls
		}
		learnt, _, _ := run(fetch.Learnt{})
		if learnt.Blocks < 100 {
			t.Errorf("learnt %+v", learnt)
		}
		_, before, calls := run(fetch.Learnt{Latency: learnt.Latency, Pace: learnt.Pace})
		_, now, fewer := run(learnt)
		if saved := before - now; saved < 30*ms || fewer >= calls {
			t.Errorf("%v in %d calls by latency and pace alone, %v in %d", before, calls, now, fewer)
		}
	})
}

// TestInFlight bounds what is asked for at once.
func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 100
		var mu sync.Mutex
		now, peak := 0, 0
		var sources []fetch.Source
		for i := range 10 {
			f := newFake(20*ms, 5*ms)
			counted := func(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
				mu.Lock()
				now += len(refs)
				peak = max(peak, now)
				mu.Unlock()
				owed := len(refs)
				defer func() {
					mu.Lock()
					defer mu.Unlock()
					now -= owed
				}()
				return f.Fetch(ctx, size, refs, func(i int, b []byte) error {
					mu.Lock()
					owed--
					now--
					mu.Unlock()
					return got(i, b)
				})
			}
			sources = append(sources, fetch.Source{Name: fmt.Sprint(i), Fetcher: fetcherFunc(counted)})
		}
		m := fetch.New(sources, fetch.Options{InFlight: most << 10})
		read(t, m, 5000)
		if peak > most*3/2 || peak < most/2 {
			t.Errorf("%d blocks were asked for at once, bound %d", peak, most)
		}
	})
}

type fetcherFunc func(context.Context, eris.BlockSize, []eris.Ref, func(int, []byte) error) error

func (f fetcherFunc) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	return f(ctx, size, refs, got)
}

// TestAdd: a source that is found on the way takes its part at once, a near one
// all that is left. There is an end to how many.
func TestAdd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newFake(ms, ms/4), newFake(20*ms, 4*ms)
		m := nearAndFar(fetch.Options{}, far)
		added := make(chan bool, 1)
		time.AfterFunc(time.Second, func() { added <- m.Add(fetch.Source{Name: "near", Fetcher: near, Near: true}) })
		d := read(t, m, 2000)
		if !<-added || d > 2*time.Second {
			t.Errorf("took %v", d)
		}
		if s := m.Stats(); len(s) != 2 || s[1].Name != "near" || s[1].Blocks < 1000 {
			t.Errorf("%+v", s)
		}
		n := 2
		for ; m.Add(fetch.Source{Name: "more", Fetcher: far}); n++ {
			if n > fetch.MaxSources {
				t.Fatal("no end")
			}
		}
		if n != fetch.MaxSources {
			t.Errorf("%d sources", n)
		}
	})
}
