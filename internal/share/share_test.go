package share

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
)

// Each content is offered once, the newest first, and taken back when it leaves.
func TestOfferAndWithdraw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, n := &shelf{}, newNet()
		lib.set(1, 2, 3)
		r := run(t, lib, Options{}, Sink{Name: "net", Kind: "k", Net: n})
		n.want(t, 0, "+1@0 +2@0 +3@0")
		n.set(func() { n.took = 10 * time.Second })
		lib.set(1, 2, 3, 4, 5)
		time.Sleep(5 * time.Second)
		lib.set(1, 2, 3, 4, 5, 6, 6) // while the first of them is on its way
		time.Sleep(time.Second)
		synctest.Wait()
		if got := r.f.Status()[0]; got != (Status{Name: "net", Kind: "k", Offered: 3, Waiting: 3}) {
			t.Errorf("%+v", got)
		}
		n.want(t, time.Minute, "+4@11 +6@21 +5@31")
		lib.set(3, 6)
		n.want(t, time.Minute, "-1@66 -2@66 -4@66 -5@66")
		lib.set(3, 6, 1)
		n.want(t, time.Hour, "+1@136")
		if got := r.f.Status()[0]; got != (Status{Name: "net", Kind: "k", Offered: 3}) {
			t.Errorf("%+v", got)
		}
	})
}

// What leaves and comes back meanwhile ends as the library says.
func TestLeavesWhileOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, n := &shelf{}, newNet()
		n.took = 10 * time.Second
		lib.set(1, 2)
		run(t, lib, Options{}, Sink{Name: "net", Net: n})
		time.Sleep(5 * time.Second)
		lib.set(3) // 1 is being offered, and cannot be opened any more
		n.want(t, time.Minute, "!1@10 -1@10 +3@20")
		lib.set(3, 4)
		time.Sleep(12 * time.Second)
		n.take()
		n.set(func() { n.took = 0 })
		lib.set(3)
		lib.set(3, 4)
		n.want(t, time.Minute, "")
	})
}

func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, often, never := &shelf{}, newNet(), newNet()
		lib.set(1, 2)
		run(t, lib, Options{}, Sink{Name: "often", Net: often, Renew: time.Minute}, Sink{Name: "never", Net: never})
		often.want(t, time.Second, "+1@0 +2@0")
		often.set(func() { often.took = time.Second })
		lib.set(1, 2, 3)
		often.want(t, 58*time.Second, "+3@2")
		often.want(t, 3*time.Second, "+1@61 +2@62")
		often.want(t, 2*time.Second, "+3@63")
		lib.set(2)
		often.want(t, time.Minute, "-1@64 -3@64 +2@123")
		never.want(t, time.Hour, "+1@0 +2@0 +3@1 -1@64 -3@64")
	})
}

// A network takes as many at once as it is said to, and others do not wait for
// it.
func TestParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, wide, slow := &shelf{}, newNet(), newNet()
		wide.took, slow.took = time.Second, time.Hour
		lib.set(1, 2, 3, 4, 5, 6, 7, 8, 9)
		run(t, lib, Options{}, Sink{Name: "wide", Net: wide, Parallel: 4}, Sink{Name: "slow", Net: slow})
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if len(wide.has) != 9 || wide.most != 4 || len(slow.has) != 0 || slow.most != 1 {
			t.Errorf("%d by %d at once; %d by %d at once", len(wide.has), wide.most, len(slow.has), slow.most)
		}
	})
}

// A network that is down is tried again after 10 s, and twice as long each time,
// up to 10 minutes; all goes on when it is back.
func TestNetworkDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, n := &shelf{}, newNet()
		n.down = errors.New("is down")
		lib.set(1, 2, 3)
		r := run(t, lib, Options{}, Sink{Name: "net", Net: n})
		n.want(t, 40*time.Minute, "!1@0 !2@10 !3@30 !1@70 !2@150 !3@310 !1@630 !2@1230 !3@1830")
		if got := r.f.Status()[0]; got != (Status{Name: "net", Waiting: 3, Failed: 3, Error: "is down"}) {
			t.Errorf("%+v", got)
		}
		n.set(func() { n.down = nil })
		n.want(t, 10*time.Minute, "+1@2430 +2@2430 +3@2430")
		if got := r.f.Status()[0]; got != (Status{Name: "net", Offered: 3}) {
			t.Errorf("%+v", got)
		}
		n.set(func() { n.down = errors.New("is down again") })
		lib.set(1)
		n.want(t, time.Minute, "!-2@3000 !-3@3010 !-2@3030")
		n.set(func() { n.down = nil })
		n.want(t, time.Minute, "-3@3070 -2@3070")
		r.end()
		if log := r.log.String(); strings.Count(log, "content not offered") != 9 || strings.Count(log, "content not withdrawn") != 3 ||
			!strings.Contains(log, "network=net root="+shared(1).ReadCap.Root.String()) {
			t.Errorf("log:\n%s", log)
		}
	})
}

// A content that cannot be given keeps no other back; who has lost it is told.
func TestContentBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, n := &shelf{}, newNet()
		n.bad[1] = &eris.CorruptError{Msg: "rotten"}
		n.bad[3] = errors.New("too large for me")
		lib.set(1, 2, 3, 4, 5)
		r := run(t, lib, Options{}, Sink{Name: "net", Net: n})
		n.want(t, time.Minute, "!1@0 +2@0 !3@0 +4@10 +5@10 !1@10 !3@10 !1@30 !3@30")
		n.set(func() { clear(n.bad) })
		n.want(t, time.Minute, "+1@70 +3@70")
		r.end()
		if log := r.log.String(); !strings.Contains(log, "level=ERROR msg=\"content not offered: run fsck\"") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// What a network has by another process is not offered again before its time;
// what left meanwhile is taken back, with the note that came with it.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, keeps, renews, forgets := &shelf{}, newNet(), newNet(), newNet()
		state := filepath.Join(t.TempDir(), "new", "shares.sqlite")
		sinks := []Sink{
			{Name: "keeps", Net: keeps, Keeps: true},
			{Name: "renews", Net: renews, Keeps: true, Renew: time.Hour},
			{Name: "forgets", Net: forgets},
		}
		lib.set(1, 2, 3)
		r := run(t, lib, Options{State: state}, sinks...)
		for _, n := range []*net{keeps, renews, forgets} {
			n.want(t, 0, "+1@0 +2@0 +3@0")
		}
		r.end()
		time.Sleep(50 * time.Minute)
		lib.set(2, 3, 4)
		r = run(t, lib, Options{State: state}, sinks...)
		// Offering does not wait for the end of a listing.
		keeps.wantAny(t, 0, "+4@3000 -*1@3000")
		renews.wantAny(t, 0, "+4@3000 -*1@3000")
		forgets.want(t, 0, "+2@3000 +3@3000 +4@3000")
		if got := r.f.Status()[0]; got != (Status{Name: "keeps", Offered: 3}) {
			t.Errorf("%+v", got)
		}
		keeps.want(t, 20*time.Minute, "")
		renews.want(t, 0, "+2@3600 +3@3600")
		r.end()
		run(t, lib, Options{State: state}, sinks...)
		for _, n := range []*net{keeps, renews} {
			n.want(t, 0, "")
		}
	})
}

// While the library cannot be listed, nothing is taken back.
func TestListingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, n := &shelf{}, newNet()
		state := filepath.Join(t.TempDir(), "shares.sqlite")
		sink := Sink{Name: "net", Net: n, Keeps: true}
		lib.set(1, 2, 3, 4)
		run(t, lib, Options{State: state}, sink).end()
		lib.broken = errors.New("disk error")
		r := run(t, lib, Options{State: state}, sink)
		n.want(t, time.Minute, "+1@0 +2@0 +3@0 +4@0")
		lib.broken = nil
		lib.set(1, 2, 3)
		n.want(t, time.Minute, "-*4@70")
		r.end()
		if log := r.log.String(); strings.Count(log, "disk error") != 3 { // at 0, 10 and 30
			t.Errorf("log:\n%s", log)
		}
	})
}

// A library that takes long to list is not listed all the time.
func TestListingTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, n := &shelf{took: time.Second}, newNet()
		lib.set(1)
		run(t, lib, Options{}, Sink{Name: "net", Net: n})
		for i := range 200 {
			lib.set(1, 2+i)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if lib.lists < 9 || lib.lists > 11 {
			t.Errorf("listed %d times in 200 s", lib.lists)
		}
	})
}

// A content is offered again when the library says something else of it.
func TestContentChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, n := &shelf{}, newNet()
		state := filepath.Join(t.TempDir(), "shares.sqlite")
		sink := Sink{Name: "net", Net: n, Keeps: true}
		lib.set(1, 2)
		r := run(t, lib, Options{State: state}, sink)
		n.want(t, time.Minute, "+1@0 +2@0")
		magnet := func(s string) {
			lib.mu.Lock()
			defer lib.mu.Unlock()
			lib.all[1].Magnet = s
			lib.tell()
		}
		magnet("magnet:?xt=1")
		n.want(t, time.Minute, "+2@60")
		r.end()
		r = run(t, lib, Options{State: state}, sink)
		n.want(t, time.Minute, "")
		r.end()
		magnet("magnet:?xt=2")
		r = run(t, lib, Options{State: state}, sink)
		n.want(t, time.Minute, "+2@180")
		n.set(func() { n.took = 10 * time.Second })
		magnet("magnet:?xt=3")
		time.Sleep(5 * time.Second)
		magnet("magnet:?xt=4") // while the third is on its way
		n.want(t, time.Minute, "+2@250 +2@260")
		if got := r.f.Status()[0]; got != (Status{Name: "net", Offered: 2}) {
			t.Errorf("%+v", got)
		}
	})
}

// linked is a net that writes down by which links contents are taken back.
type linked struct {
	*net
	links []string // under mu
}

func (l *linked) Withdraw(ctx context.Context, s block.Shared, note string) error {
	l.set(func() { l.links = append(l.links, s.Magnet) })
	return l.net.Withdraw(ctx, s, note)
}

// A content is taken back by the magnet link that it was given by, though the
// library had none any more before the content left: BitTorrent knows it by that.
func TestWithdrawByLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, n := &shelf{}, &linked{net: newNet()}
		lib.set(1)
		lib.all[0].Magnet = "magnet:?xt=1"
		run(t, lib, Options{}, Sink{Name: "net", Net: n})
		n.want(t, time.Minute, "+1@0")
		lib.set(1)
		n.want(t, time.Minute, "+1@60")
		lib.set()
		n.want(t, time.Minute, "-1@120")
		if !slices.Equal(n.links, []string{"magnet:?xt=1"}) {
			t.Errorf("taken back by %q", n.links)
		}
		lib.set(1) // never had one
		n.want(t, time.Minute, "+1@180")
		lib.set()
		n.want(t, time.Minute, "-1@240")
		if n.links[1] != "" {
			t.Errorf("taken back by %q", n.links)
		}
	})
}

// Of a network that is down, one worker says so, not each.
func TestNetworkDownSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, n := &shelf{}, newNet()
		n.down, n.took = errors.New("is down"), time.Second
		lib.set(1, 2, 3, 4, 5, 6, 7, 8)
		r := run(t, lib, Options{}, Sink{Name: "net", Net: n, Parallel: 4})
		n.wantAny(t, 5*time.Second, "!1@1 !2@1 !3@1 !4@1")
		n.set(func() { n.down = nil })
		n.wantAny(t, time.Minute, "+1@13 +2@13 +3@13 +4@13 +5@12 +6@12 +7@12 +8@12")
		r.end()
		if log := r.log.String(); strings.Count(log, "level=WARN") != 1 {
			t.Errorf("log:\n%s", log)
		}
	})
}

// A state that cannot be written keeps nothing from being offered; without what
// it would say, nothing is taken back.
func TestStateBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, n := &shelf{}, newNet()
		lib.set(1)
		r := run(t, lib, Options{State: filepath.Join(t.TempDir(), "shares.sqlite")}, Sink{Name: "net", Net: n, Keeps: true})
		n.want(t, time.Second, "+1@0")
		if _, err := r.f.state.db.Exec(`ALTER TABLE shares RENAME TO gone`); err != nil {
			t.Fatal(err)
		}
		lib.set(2)
		n.want(t, 5*time.Second, "") // 1 is to be taken back first
		if got := r.f.Status()[0]; got.Waiting != 2 || !strings.Contains(got.Error, "no such table") {
			t.Errorf("%+v", got)
		}
		lib.set(1, 2)
		n.want(t, time.Minute, "+2@11")
		if _, err := r.f.state.db.Exec(`ALTER TABLE gone RENAME TO shares`); err != nil {
			t.Fatal(err)
		}
		lib.set(2)
		n.want(t, time.Minute, "-*1@66")
		r.end()
		if log := r.log.String(); !strings.Contains(log, "what was offered is not remembered") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// What is offered when all ends is offered again.
func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, n := &shelf{}, newNet()
		state := filepath.Join(t.TempDir(), "shares.sqlite")
		sink := Sink{Name: "net", Net: n, Keeps: true, Parallel: 2}
		n.took = time.Hour
		lib.set(1, 2, 3)
		r := run(t, lib, Options{State: state}, sink)
		time.Sleep(time.Minute)
		r.end()
		if r.log.Len() != 0 {
			t.Errorf("log:\n%s", r.log)
		}
		n.took = 0
		f, err := New(lib, []Sink{sink}, Options{State: state})
		if err != nil {
			t.Fatal(err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := errors.Join(f.Run(ended), f.Close()); err != nil {
			t.Errorf("ended at once: %v", err)
		}
		run(t, lib, Options{State: state}, sink)
		n.wantAny(t, time.Minute, "+1@60 +2@60 +3@60")
	})
}

func TestNewRefuses(t *testing.T) {
	n := newNet()
	if _, err := New(&shelf{}, []Sink{{Name: "net", Net: n}, {Name: "net", Net: n}}, Options{}); err == nil || !strings.Contains(err.Error(), `"net"`) {
		t.Errorf("two of one name: %v", err)
	}
	name := t.TempDir()
	if _, err := New(&shelf{}, []Sink{{Name: "net", Net: n, Keeps: true}}, Options{State: name}); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("a state that cannot be opened: %v", err)
	}
	f, err := New(&shelf{}, nil, Options{State: name}) // nobody needs it
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Run(t.Context()), f.Close()); err != nil {
		t.Errorf("no networks: %v", err)
	}
}

// 100,000 contents take a few hundred bytes each, with two networks.
func TestManyContents(t *testing.T) {
	const many, some = 100_000, 1000
	lib := &shelf{}
	for i := range many {
		lib.all = append(lib.all, shared(i))
	}
	f, err := New(lib, []Sink{{Name: "a", Net: newNet()}, {Name: "b", Net: newNet()}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for range 2 {
		if err := f.list(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	each := (heap() - before) / many
	t.Logf("%d bytes per content", each)
	if each > 400 {
		t.Errorf("%d bytes per content", each)
	}
	for _, q := range f.queues {
		for i := range some {
			got, _, _ := q.take(time.Now())
			if number(*got.c) != i {
				t.Fatalf("%d comes as number %d", number(*got.c), i)
			}
			q.succeed(got)
		}
	}
	lib.all = nil
	if err := f.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range f.Status() {
		if s.Offered != some || s.Waiting != some { // the others need not be taken back
			t.Errorf("%+v", s)
		}
	}
	runtime.KeepAlive(f)
}

// Figures are asked for while all goes on.
func TestStatusMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, n := &shelf{}, newNet()
		r := run(t, lib, Options{}, Sink{Name: "net", Net: n, Parallel: 3, Renew: time.Second})
		var asking sync.WaitGroup
		for range 3 {
			asking.Go(func() {
				for range 100 {
					if s := r.f.Status()[0]; s.Offered > 9 || s.Error != "" {
						t.Errorf("%+v", s)
					}
					time.Sleep(time.Second)
				}
			})
		}
		for i := range 50 {
			lib.set(i, i+1, i+2)
			time.Sleep(2 * time.Second)
		}
		asking.Wait()
		synctest.Wait()
		if fmt.Sprint(n.has) != fmt.Sprint(map[int]bool{49: true, 50: true, 51: true}) {
			t.Errorf("the network has %v", n.has)
		}
	})
}

var _ Network = Plain(block.Sink(nil))

// A network that is full is asked again in ten minutes, takes contents back
// meanwhile, and says once that it is full.
func TestNetworkFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, n := &shelf{}, newNet()
		full := fmt.Errorf("limit 2: %w", block.ErrFull)
		n.bad[3], n.bad[4] = full, full
		lib.set(1, 2, 3, 4)
		r := run(t, lib, Options{}, Sink{Name: "net", Net: n})
		n.want(t, time.Minute, "+1@0 +2@0 !3@0 !4@0")
		lib.set(1, 3, 4)
		n.want(t, time.Minute, "-2@60")
		n.set(func() { clear(n.bad) })
		n.want(t, 10*time.Minute, "+3@600 +4@600")
		r.end()
		if log := r.log.String(); strings.Count(log, "level=WARN") != 1 || !strings.Contains(log, "network is full") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// Of two contents whose roots begin alike, the first is given, and the second when
// that has left.
func TestAlike(t *testing.T) {
	first, second := shared(1), shared(1)
	second.ReadCap.Root[31] = 1
	lib := &shelf{all: []block.Shared{first, second}}
	f, err := New(lib, []Sink{{Name: "net", Net: newNet()}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	q := f.queues[0]
	for i, want := range []struct {
		c    block.Shared
		back bool
	}{{first, false}, {first, true}, {second, false}} {
		if err := f.list(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, _, _ := q.take(time.Now())
		if got.i == nil || *got.c != want.c || got.back != want.back {
			t.Fatalf("task %d: %+v", i, got)
		}
		q.succeed(got)
		lib.all = []block.Shared{second}
	}
}
