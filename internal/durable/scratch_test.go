package durable

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestScratch(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "scratch")
	s, err := OpenScratch(name)
	if err != nil {
		t.Fatal(err)
	}
	const far = 1 << 20
	if _, err := s.WriteAt([]byte("far"), far); err != nil {
		t.Fatal(err)
	}
	if !s.Hole(0, far/2) || s.Hole(far, 3) || !s.Hole(2*far, 1) {
		t.Error("holes are not where they are")
	}
	if _, err := s.WriteAt([]byte("near"), 0); err != nil {
		t.Fatal(err)
	}
	if s.Hole(0, 4) {
		t.Error("what was written is a hole")
	}
	if err := s.Truncate(6); err != nil {
		t.Fatal(err)
	}
	if err := s.Settle(0o644); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := s.ReadAt(b, 0); err != nil || string(b) != "near\x00\x00" {
		t.Errorf("%q, %v", b, err)
	}
	if fi, err := s.Stat(); err != nil || fi.Size() != 6 || fi.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", fi, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// What was there stays.
	if s, err = OpenScratch(name); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := get(t, name); got != "near\x00\x00" {
		t.Errorf("%q", got)
	}
}

func TestScratchFaults(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenScratch(filepath.Join(dir, "scratch"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var broken string
	defer SetFaultForTest(func(op, path string) error {
		if op == broken {
			return syscall.ENOSPC
		}
		return nil
	})()
	for _, c := range []struct {
		op string
		do func() error
	}{
		{"create", func() error { _, err := OpenScratch(filepath.Join(dir, "other")); return err }},
		{"write", func() error { _, err := s.WriteAt([]byte{1}, 0); return err }},
		{"write", func() error { return s.Truncate(1) }},
		{"chmod", func() error { return s.Settle(0o644) }},
		{"sync", func() error { return s.Settle(0o644) }},
	} {
		broken = c.op
		if err := c.do(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", c.op, err)
		}
	}
	if fi, err := s.Stat(); err != nil || fi.Size() != 0 {
		t.Errorf("%v, %v", fi, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "other")); err == nil {
		t.Error("a fault does not stand for the call")
	}
}
