package folder

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// Work that takes as long as it likes has its part of the time, and no more.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		p := NewPace(10)
		work := time.Duration(0)
		for range 20 {
			time.Sleep(7 * time.Millisecond)
			work += 7 * time.Millisecond
			if err := p.Rest(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 10*work {
			t.Errorf("%v of work took %v", work, took)
		}
		start = time.Now()
		if err := p.Rest(ctx); err != nil || time.Since(start) != 0 {
			t.Errorf("rest without work: %v, %v", time.Since(start), err)
		}
		if err := (*Pace)(nil).Rest(ctx); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		time.AfterFunc(time.Minute, cancel)
		start = time.Now()
		if err := p.Rest(ctx); !errors.Is(err, context.Canceled) || time.Since(start) != time.Minute {
			t.Errorf("ended after %v: %v", time.Since(start), err)
		}
		for _, p := range []*Pace{p, nil} {
			if err := p.Rest(ctx); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
}

// What was written before a process began, or in a time to come, others have
// left; what is written since is its own.
func TestBegin(t *testing.T) {
	dir := t.TempDir()
	lock, err := Lock(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(lock.Name(), long, long); err != nil {
		t.Fatal(err)
	}
	begun, err := Begin(lock)
	if err != nil || time.Since(begun).Abs() > time.Minute {
		t.Fatalf("%v, %v", begun, err)
	}
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if last := fi.ModTime(); Left(begun, last) || !Left(begun, begun.Add(-1)) || !Left(begun, time.Now().AddDate(1, 0, 0)) {
		t.Errorf("begun %v, written %v", begun, last)
	}
}
