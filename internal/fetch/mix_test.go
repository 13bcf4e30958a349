package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/fetch"
)

const ms = time.Millisecond

func mix(o fetch.Options, fakes ...*fake) *fetch.Mix {
	var sources []fetch.Source
	for i, f := range fakes {
		sources = append(sources, fetch.Source{Name: string(rune('a' + i)), Fetcher: f})
	}
	return fetch.New(sources, o)
}

// read fetches blocks 0 to n as an eris.Reader with its default options does,
// and returns how long that took.
func read(t *testing.T, m *fetch.Mix, n int) time.Duration {
	t.Helper()
	const batch, ahead = 64, 4
	start := time.Now()
	queue := make(chan chan *taker, ahead-1)
	go func() {
		defer close(queue)
		for i := 0; i < n; i += batch {
			done := make(chan *taker, 1)
			queue <- done
			go func() {
				k := take(t, i, min(batch, n-i))
				if err := k.fetch(t.Context(), m); err != nil {
					t.Error(err)
				}
				done <- k
			}()
		}
	}()
	for done := range queue {
		(<-done).whole()
	}
	return time.Since(start)
}

func TestOneSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFake(10*ms, ms)
		m := mix(fetch.Options{}, a)
		read(t, m, 1000)
		if s := m.Stats()[0]; s.Blocks != 1000 || s.Bytes != 1000<<10 || s.Err != nil || a.sent != 1000 {
			t.Errorf("%+v, %d blocks were sent", s, a.sent)
		}
		if a.calls > 1000/32*2+10 || a.most > 4 {
			t.Errorf("%d calls, %d at once", a.calls, a.most)
		}
	})
}

func TestNothingToDo(t *testing.T) {
	if err := mix(fetch.Options{}).Fetch(t.Context(), eris.Size1KiB, nil, nil); err != nil {
		t.Error(err)
	}
	if err := take(t, 0, 1).fetch(t.Context(), mix(fetch.Options{})); !errors.Is(err, eris.ErrNotFound) {
		t.Errorf("no sources: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := take(t, 0, 1).fetch(ctx, mix(fetch.Options{}, newFake(0, 0))); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
}

// TestLacks spreads blocks over sources, each of which has a third; every
// 50th nobody has.
func TestLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fakes []*fake
		for k := range 3 {
			f := newFake(10*ms, ms)
			f.lacks = func(r eris.Ref) bool { return number(r)%3 != k || number(r)%50 == 7 }
			fakes = append(fakes, f)
		}
		m := mix(fetch.Options{}, fakes...)
		k := take(t, 0, 300)
		if err := k.fetch(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		for i := range k.refs {
			if want := i%50 != 7; (k.times[i] > 0) != want {
				t.Errorf("block %d came %d times", i, k.times[i])
			}
		}
		for _, s := range m.Stats() {
			if s.Err != nil || s.Blocks < 97 || s.Blocks > 100 {
				t.Errorf("%+v", s)
			}
		}
	})
}

// TestDrops breaks one of two sources in all ways, from its first call or in
// the middle. The other stands in, and the log says who and why.
func TestDrops(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(call, block int) error
		lies  func(call, block int) bool
		want  error
	}{
		"fails at once":       {fault: func(int, int) error { return errBroken }, want: errBroken},
		"fails later":         {fault: func(call, _ int) error { return when(call > 3, errBroken) }, want: errBroken},
		"truncates":           {fault: func(_, block int) error { return when(block > 0, errBroken) }, want: errBroken},
		"lies at once":        {lies: func(int, int) bool { return true }, want: eris.ErrCorrupt},
		"lies later":          {lies: func(call, block int) bool { return call > 3 && block > 1 }, want: eris.ErrCorrupt},
		"says wrong lengths":  {fault: func(call, _ int) error { return when(call > 3, eris.ErrCorrupt) }, want: eris.ErrCorrupt},
		"stalls at once":      {fault: func(int, int) error { return errHang }, want: fetch.ErrStalled},
		"stalls later":        {fault: func(call, block int) error { return when(call > 3, errHang) }, want: fetch.ErrStalled},
		"fails once":          {fault: func(call, block int) error { return when(call == 4, errBroken) }},
		"fails now and then":  {fault: func(call, block int) error { return when(call%15 == 14, errBroken) }},
		"fails several times": {fault: func(call, block int) error { return when(call > 3 && call < 12, errBroken) }, want: errBroken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The good one is slow, so that a stall is found before the end.
				bad, good := newFake(10*ms, ms), newFake(10*ms, 50*ms)
				bad.fault, bad.lies = c.fault, c.lies
				var log bytes.Buffer
				m := mix(fetch.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, bad, good)
				read(t, m, 640)
				s := m.Stats()
				if !errors.Is(s[0].Err, c.want) || (s[0].Err == nil) != (c.want == nil) || s[1].Err != nil {
					t.Errorf("%+v", s)
				}
				if s[0].Blocks+s[1].Blocks != 640 {
					t.Errorf("%+v is not the sum", s)
				}
				line := log.String()
				if named := strings.Contains(line, "source=a block="); named != (c.want != nil) || strings.Count(line, "\n") > 1 {
					t.Errorf("log:\n%s", line)
				}
			})
		})
	}
}

func when(b bool, err error) error {
	if b {
		return err
	}
	return nil
}

// TestAllDropped wants all reasons, at once and in later calls.
func TestAllDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		liar, broken, silent := newFake(ms, ms), newFake(ms, ms), newFake(ms, ms)
		liar.lies = func(int, int) bool { return true }
		broken.fault = func(int, int) error { return errBroken }
		silent.fault = func(int, int) error { return errHang }
		m := mix(fetch.Options{}, liar, broken, silent)
		start := time.Now()
		for range 2 {
			err := take(t, 0, 64).fetch(t.Context(), m)
			for _, want := range []error{eris.ErrCorrupt, errBroken, fetch.ErrStalled} {
				if !errors.Is(err, want) {
					t.Errorf("%v is not in: %v", want, err)
				}
			}
		}
		if d := time.Since(start); d < 10*time.Second || d > 11*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

// TestLackingIsNotDropped: what the living lack is missing, whatever the
// dropped may have.
func TestMissingAfterDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent, empty := newFake(ms, ms), newFake(ms, ms)
		silent.fault = func(int, int) error { return errHang }
		empty.lacks = func(eris.Ref) bool { return true }
		m := mix(fetch.Options{Stall: 3 * time.Second}, silent, empty)
		start := time.Now()
		k := take(t, 0, 64)
		if err := k.fetch(t.Context(), m); err != nil || len(k.times) != 0 {
			t.Errorf("%d blocks, %v", len(k.times), err)
		}
		if d := time.Since(start); d < 3*time.Second || d > 4*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFake(ms, time.Second), newFake(ms, time.Second)
		m := mix(fetch.Options{}, a, b)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var work sync.WaitGroup
		for i := range 3 {
			work.Go(func() {
				if err := take(t, 100*i, 64).fetch(ctx, m); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
			})
		}
		work.Wait()
		if a.now+b.now != 0 {
			t.Error("calls go on")
		}
		// That is nothing against the sources, and others go on.
		for _, s := range m.Stats() {
			if s.Err != nil || s.Blocks == 0 {
				t.Errorf("%+v", s)
			}
		}
		k := take(t, 1000, 10)
		if err := k.fetch(t.Context(), m); err != nil {
			t.Error(err)
		}
		k.whole()
	})
}

// TestOneCallEnds: when one call of Fetch is cancelled, another gets its turn.
func TestOneCallEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFake(ms, 10*ms)
		a.fault = func(call, _ int) error { return when(call == 0, errHang) }
		m := fetch.New([]fetch.Source{{Name: "a", Fetcher: a, Parallel: 1}}, fetch.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go take(t, 0, 64).fetch(ctx, m)
		synctest.Wait()
		k := take(t, 64, 64)
		start := time.Now()
		if err := k.fetch(t.Context(), m); err != nil || time.Since(start) > 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		k.whole()
	})
}

// TestCallerFails: an error of got that is no verdict on the bytes is the
// result, and nothing against the source.
func TestCallerFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mix(fetch.Options{}, newFake(ms, ms))
		full := errors.New("disk full")
		err := m.Fetch(t.Context(), eris.Size1KiB, take(t, 0, 9).refs, func(int, []byte) error { return full })
		if !errors.Is(err, full) || m.Stats()[0].Err != nil {
			t.Errorf("%v, %+v", err, m.Stats())
		}
	})
}
