package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
)

// openBook opens a Book in a folder; warnings are counted.
func openBook(t *testing.T, dir string, warnings *int) *Book {
	t.Helper()
	o := BookOptions{}
	if warnings != nil {
		o.Log = slog.New(counter{slog.DiscardHandler, warnings})
	}
	b, err := OpenBook(filepath.Join(dir, "sources.json"), o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// counter counts the lines that an operator would see.
type counter struct {
	slog.Handler
	n *int
}

func (c counter) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (c counter) Handle(context.Context, slog.Record) error {
	*c.n++
	return nil
}

var errReset = errors.New("connection reset")

func TestBookBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBook(t, t.TempDir(), nil)
		fails := Stat{Name: "s", Err: errReset}
		var waits []time.Duration
		for range 11 {
			b.Note(fails)
			b.Note(fails) // by another transfer, at the same time
			start := time.Now()
			for b.Usable("s") != nil {
				time.Sleep(time.Second)
			}
			waits = append(waits, time.Since(start))
		}
		want := []time.Duration{10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600}
		for i := range want {
			want[i] *= time.Second
		}
		if !reflect.DeepEqual(waits, want) {
			t.Errorf("not asked for %v, want %v", waits, want)
		}
		// A look that finds nothing to ask for changes nothing, blocks do.
		b.Note(fails)
		b.Note(Stat{Name: "s", Learnt: Learnt{Latency: 1}})
		if err := b.Usable("s"); err == nil || !strings.Contains(err.Error(), "asked again in 1h0m0s: connection reset") {
			t.Error(err)
		}
		b.Note(Stat{Name: "s", Blocks: 1, Bytes: 1024})
		if err := b.Usable("s"); err != nil {
			t.Errorf("after a success: %v", err)
		}
		b.Note(fails)
		time.Sleep(firstPause)
		if err := b.Usable("s"); err != nil {
			t.Errorf("the first failure after a success: %v", err)
		}
		if err := b.Usable("never heard of"); err != nil {
			t.Error(err)
		}
	})
}

func TestBookRemembersLies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		b := openBook(t, dir, nil)
		b.Note(Stat{Name: "block", Blocks: 5, Err: fmt.Errorf("x: %w", eris.ErrCorrupt)})
		b.Lied("hint", "its hint\nwas of another nar")
		b.Note(Stat{Name: "hint", Blocks: 5}) // that it gives others does not make up for it
		if err := b.Save(); err != nil {
			t.Fatal(err)
		}
		b = openBook(t, dir, nil)
		time.Sleep(liarTime - time.Second)
		for name, want := range map[string]string{"block": "x: ", "hint": "its hint was of another nar"} {
			err, e := b.Usable(name), b.Entry(name)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(e.Error, want) || e.Lied.IsZero() || !e.Until.Equal(e.Lied.Add(liarTime)) {
				t.Errorf("%s: %v, %+v", name, err, e)
			}
		}
		time.Sleep(time.Second)
		b.Note(Stat{Name: "hint", Blocks: 1})
		if e := b.Entry("hint"); b.Usable("hint") != nil || !e.Lied.IsZero() || e.Error != "" || !e.Until.IsZero() {
			t.Errorf("after 30 days and a success: %v, %+v", b.Usable("hint"), e)
		}
	})
}

func TestBookLearns(t *testing.T) {
	dir := t.TempDir()
	b := openBook(t, dir, nil)
	b.Note(Stat{Name: "s", Blocks: 3, Bytes: 30, Learnt: Learnt{Latency: 2 * time.Millisecond, Pace: time.Microsecond, Blocks: 9}})
	b.Note(Stat{Name: "s", Blocks: 1, Bytes: 10, Learnt: Learnt{Latency: 3 * time.Millisecond}})
	b.Note(Stat{Name: "was not asked"})
	want := Learnt{Latency: 3 * time.Millisecond, Pace: time.Microsecond}
	if e := b.Entry("s"); e.Learnt != want || e.Blocks != 4 || e.Bytes != 40 || b.Prior("s") != want {
		t.Errorf("%+v", e)
	}
	if err := b.Save(); err != nil {
		t.Fatal(err)
	}
	again := openBook(t, dir, nil)
	if e := again.Entry("s"); e.Learnt != want || e.Blocks != 0 || again.Entry("was not asked") != (Entry{}) {
		t.Errorf("after a restart: %+v", e)
	}
}

// TestBookIsBounded: whoever makes up names drives out the oldest, and no name
// or reason takes more than its share.
func TestBookIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		b := openBook(t, dir, nil)
		long := strings.Repeat("é\x00\xff", 1000)
		for i := range maxNames {
			b.Lied(fmt.Sprintf("%d %s", i, long), long)
			time.Sleep(time.Second)
		}
		b.Note(Stat{Name: "0 " + long, Blocks: 1})
		b.Lied("one more", "")
		if len(b.records) != maxNames || b.Usable("0 "+long) == nil || b.Usable("1 "+long) != nil || b.Usable("one more") == nil {
			t.Errorf("%d names; %v, %v", len(b.records), b.Usable("0 "+long), b.Usable("1 "+long))
		}
		if err := b.Save(); err != nil {
			t.Fatal(err)
		}
		if again := openBook(t, dir, nil); len(again.records) != maxNames || again.Usable("0 "+long) == nil {
			t.Errorf("read again: %d names", len(again.records))
		}
	})
}

// TestBookIsShown: what a source says of itself does nothing to a terminal.
func TestBookIsShown(t *testing.T) {
	b := openBook(t, t.TempDir(), nil)
	b.Note(Stat{Name: "s", Err: errors.New("500 \x1b]0;mine\a,\r\nno\xff error")})
	if e := b.Entry("s"); e.Error != "500 �]0;mine�, no� error" || !strings.HasSuffix(b.Usable("s").Error(), e.Error) {
		t.Errorf("%q", e.Error)
	}
}

func TestBookFile(t *testing.T) {
	for name, text := range map[string]string{
		"none of ours":    "<html>",
		"torn":            `[{"name": "a", "not`,
		"twice":           `[{"name": "a"}, {"name": "a"}]`,
		"without a name":  `[{"latency_ns": 1}]`,
		"negative":        `[{"name": "a", "pace_ns": -1}]`,
		"time":            `[{"name": "a", "lied": "yesterday"}]`,
		"many":            "[" + strings.Repeat(`{"name": "a"},`, maxNames) + `{"name": "b"}]`,
		"larger than all": "[" + strings.Repeat(" ", maxBook) + "]",
	} {
		t.Run(name, func(t *testing.T) {
			dir, warnings := t.TempDir(), 0
			if err := os.WriteFile(filepath.Join(dir, "sources.json"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			b := openBook(t, dir, &warnings)
			if len(b.records) != 0 || warnings != 1 {
				t.Errorf("%d sources, %d warnings", len(b.records), warnings)
			}
			b.Lied("a", "x")
			if err := b.Save(); err != nil {
				t.Fatal(err)
			}
			if again := openBook(t, dir, &warnings); again.Usable("a") == nil || warnings != 1 {
				t.Errorf("after it was written anew: %v, %d warnings", again.Usable("a"), warnings)
			}
		})
	}
	if _, err := OpenBook(t.TempDir(), BookOptions{}); err == nil {
		t.Error("a folder is a Book")
	}
}

// TestBookClock: a clock that was wrong leaves nobody out for ever.
func TestBookClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		text := `[{"name": "a", "paused": "2990-01-01T00:00:00Z"}, {"name": "b", "lied": "2990-01-01T00:00:00Z"}]`
		if err := os.WriteFile(filepath.Join(dir, "sources.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		b := openBook(t, dir, nil)
		if b.Usable("a") == nil || b.Usable("b") == nil {
			t.Error("it is forgotten at once")
		}
		time.Sleep(lastPause)
		if err := b.Usable("a"); err != nil {
			t.Error(err)
		}
		time.Sleep(liarTime)
		if err := b.Usable("b"); err != nil {
			t.Error(err)
		}
	})
}

func TestBookRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		warnings := 0
		b := openBook(t, dir, &warnings)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		b.Lied("a", "")
		time.Sleep(saveEvery + time.Second)
		if openBook(t, dir, nil).Usable("a") == nil {
			t.Error("not saved after a minute")
		}
		file := filepath.Join(dir, "sources.json")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * saveEvery)
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("saved though nothing was new: %v", err)
		}
		if err := os.Mkdir(file, 0o755); err != nil { // it cannot be replaced
			t.Fatal(err)
		}
		b.Lied("b", "")
		time.Sleep(2 * saveEvery)
		synctest.Wait()
		if warnings != 2 {
			t.Errorf("%d warnings", warnings)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if openBook(t, dir, nil).Usable("b") == nil {
			t.Error("not saved at the end")
		}
	})
}

func FuzzBook(f *testing.F) {
	f.Add(`[]`)
	f.Add(`[{"name": "a", "noted": "2026-01-02T03:04:05Z", "latency_ns": 5, "pace_ns": 6}]`)
	f.Add(`[{"name": "a", "lied": "2026-01-02T03:04:05.6+01:00", "reason": "x"}, {"name": "b", "failures": 3, "paused": "2026-01-02T03:04:05Z"}]`)
	f.Add(`[{"name": "é\u0000", "noted": "0001-01-01T00:00:00Z"}]`)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		records, err := parseBook([]byte(text), now)
		if err != nil {
			return
		}
		b := &Book{records: records}
		printed, err := b.text()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseBook(printed, now)
		if err != nil {
			t.Fatalf("%s: %v", printed, err)
		}
		b.records = again
		if second, err := b.text(); err != nil || string(second) != string(printed) {
			t.Fatalf("%v; printed\n%s\nthen\n%s", err, printed, second)
		}
	})
}
