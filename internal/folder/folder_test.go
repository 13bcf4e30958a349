package folder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ersatz/internal/compress"
)

func put(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	now := time.Unix(1_000_000, 0)
	settled := func() time.Duration {
		t.Helper()
		before, err := Settled(name, now)
		if err != nil {
			t.Fatal(err)
		}
		return now.Sub(before)
	}
	if d := settled(); d != 0 {
		t.Errorf("no lock: %v", d)
	}
	f, err := Lock(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(name); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), name) {
		t.Errorf("locked twice: %v", err)
	}
	if d := settled(); d != time.Hour {
		t.Errorf("locked: %v", d)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if d := settled(); d != 0 {
		t.Errorf("not locked any more: %v", d)
	}
	if f, err = Lock(name); err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	if err := List(filepath.Join(dir, "no"), func(string) error { return errors.New("called") }); err != nil {
		t.Error(err)
	}
	for i := range 30 {
		put(t, filepath.Join(dir, fmt.Sprint(i)), nil)
	}
	seen := map[string]bool{}
	err := List(dir, func(name string) error { seen[name] = true; return errors.New("fault " + name) })
	if len(seen) != 30 {
		t.Errorf("%d names", len(seen))
	}
	if n := strings.Count(err.Error(), "fault"); n != MaxErrors {
		t.Errorf("%d errors", n)
	}
}

// Reading leaves the access time alone, setting it leaves the rest alone.
func TestAccessTime(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	put(t, name, []byte("content"))
	want, written := time.Unix(5, 7), time.Unix(1_000_000, 0)
	if err := os.Chtimes(name, written, written); err != nil {
		t.Fatal(err)
	}
	if err := SetAccessTime(name, want); err != nil {
		t.Fatal(err)
	}
	if text, err := Read(name, 7); err != nil || string(text) != "content" {
		t.Errorf("%q, %v", text, err)
	}
	if got, err := AccessTime(name); err != nil || !got.Equal(want) {
		t.Errorf("%v, %v", got, err)
	}
	if fi, err := os.Stat(name); err != nil || !fi.ModTime().Equal(written) {
		t.Errorf("%v, %v", fi.ModTime(), err)
	}
	if _, err := Read(name, 6); err == nil || !strings.Contains(err.Error(), "larger than 6 bytes") {
		t.Errorf("too large: %v", err)
	}
	if last, regular := Changed(name); !regular || time.Since(last) > time.Hour {
		t.Errorf("changed %v, regular %v", last, regular)
	}
	none := name + "-none"
	_, err1 := AccessTime(none)
	_, err2 := Read(none, 1)
	for _, err := range []error{err1, err2, SetAccessTime(none, want)} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("not there: %v", err)
		}
	}
	if _, regular := Changed(none); regular || Exists(none) || !Exists(name) {
		t.Error("a file that is not there")
	}
}

func TestAllocated(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if n := Allocated(name); n != 0 {
		t.Errorf("%d bytes of nothing", n)
	}
	put(t, name, bytes.Repeat([]byte{1}, 100_000))
	if err := os.Truncate(name, 1<<30); err != nil {
		t.Fatal(err)
	}
	if n := Allocated(name); n < 50_000 || n > 1<<20 {
		t.Errorf("%d bytes of a sparse file", n)
	}
}

func TestHashNar(t *testing.T) {
	content := bytes.Repeat([]byte("a nar, as far as this goes "), 10_000)
	for _, m := range []compress.Method{compress.None, {Name: "zstd", Level: 3}, {Name: "gzip", Level: 1}} {
		name := filepath.Join(t.TempDir(), m.Name)
		var b bytes.Buffer
		w, err := compress.NewWriter(&b, m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		put(t, name, b.Bytes())
		info, size, err := HashNar(t.Context(), name, m.Name, uint64(len(content)))
		if err != nil || info.Hash != sha256.Sum256(content) || info.Size != int64(len(content)) || size != int64(b.Len()) {
			t.Errorf("%s: %+v, %d, %v", m, info, size, err)
		}
		// No more is decompressed than shows that the nar is too large.
		if info, _, err = HashNar(t.Context(), name, m.Name, 1000); err != nil || info.Size != 1001 {
			t.Errorf("%s: %+v, %v", m, info, err)
		}
		put(t, name, b.Bytes()[:b.Len()/2])
		info, _, err = HashNar(t.Context(), name, m.Name, uint64(len(content)))
		if err == nil && info.Hash == sha256.Sum256(content) {
			t.Errorf("%s: half of it is whole", m)
		}
	}
}

func TestCopyEnds(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	put(t, name, []byte("content"))
	var b bytes.Buffer
	if err := Copy(t.Context(), &b, name); err != nil || b.String() != "content" {
		t.Errorf("%q, %v", b.String(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Copy(ctx, &b, name); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, _, err := HashNar(ctx, name, "none", 7); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
