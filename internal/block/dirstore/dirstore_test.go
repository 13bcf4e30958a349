package dirstore_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/dirstore"
	"ersatz/internal/durable"
)

// create returns a store in a folder that did not exist, which must have
// nothing but blocks in it at the end.
func create(t *testing.T) (*dirstore.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a", "blocks")
	s, err := dirstore.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Sync(), s.Close()); err != nil {
			t.Error(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			if !regexp.MustCompile(`^[A-Z2-7]{52}$`).MatchString(e.Name()) {
				t.Errorf("%s is left in the folder", e.Name())
			}
		}
	})
	return s, dir
}

func TestStore(t *testing.T) {
	blocktest.Run(t, func(t *testing.T) block.Store { s, _ := create(t); return s })
}

func TestFiles(t *testing.T) {
	s, dir := create(t)
	ref, b := blocktest.Make(eris.Size32KiB, 1)
	if err := s.Put(t.Context(), ref, b); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, ref.String()))
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("file has %d bytes, %v", len(got), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d files, %v", len(entries), err)
	}
	again, err := dirstore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got, err := again.Get(t.Context(), ref); err != nil || !bytes.Equal(got, b) {
		t.Errorf("opened again: %d bytes, %v", len(got), err)
	}
}

func TestOpenMissing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	if _, err := dirstore.Open(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("Open made the folder")
	}
}

func TestCreateOverFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dirstore.Create(path); !errors.Is(err, syscall.ENOTDIR) {
		t.Error(err)
	}
}

// TestDamage has under a block's name what a power failure or a stranger may
// leave there.
func TestDamage(t *testing.T) {
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	for name, damage := range map[string]func(path string) error{
		"empty":    func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"short":    func(path string) error { return os.WriteFile(path, b[:1000], 0o600) },
		"zeros":    func(path string) error { return os.WriteFile(path, make([]byte, 1024), 0o600) },
		"long":     func(path string) error { return os.WriteFile(path, append(b, 0), 0o600) },
		"too long": func(path string) error { return os.WriteFile(path, make([]byte, 1<<20), 0o600) },
		"pipe":     func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"outside": func(path string) error {
			out := filepath.Join(filepath.Dir(filepath.Dir(path)), "out")
			return errors.Join(os.WriteFile(out, b, 0o600), os.Symlink(out, path))
		},
		"link": func(path string) error {
			in := filepath.Join(filepath.Dir(path), eris.BlockRef(nil).String())
			return errors.Join(os.WriteFile(in, b, 0o600), os.Symlink(in, path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := create(t)
			path := filepath.Join(dir, ref.String())
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			if got, err := block.Verify(s, "folder").Get(t.Context(), ref); err == nil {
				t.Errorf("got %d bytes", len(got))
			}
			buf := make([]byte, len(b)+1)
			if n, err := s.Read(t.Context(), ref, buf); err == nil && n == len(b) && eris.BlockRef(buf[:n]) == ref {
				t.Errorf("read %d bytes", n)
			}
			if err := s.Put(t.Context(), ref, b); err != nil {
				t.Fatal(err)
			}
			if n, err := s.Read(t.Context(), ref, buf); err != nil || !bytes.Equal(buf[:n], b) {
				t.Errorf("after the repair: read %d bytes, %v", n, err)
			}
			if got, err := s.Get(t.Context(), ref); err != nil || !bytes.Equal(got, b) {
				t.Errorf("after the repair: %d bytes, %v", len(got), err)
			}
		})
	}
}

// TestPutFails has a folder in the place of the file.
func TestPutFails(t *testing.T) {
	s, dir := create(t)
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	if err := os.MkdirAll(filepath.Join(dir, ref.String(), "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), ref, b); err == nil {
		t.Error("put succeeded")
	}
}

// TestLeftovers wants Create to remove what a killed process left, and not
// what another may be writing.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, durable.TempPrefix+"old"), filepath.Join(dir, durable.TempPrefix+"new")
	for _, path := range []string{old, fresh} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	s, err := dirstore.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("old: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("fresh: %v", err)
	}
}

// TestTwoStores has two handles put the same blocks into one folder.
func TestTwoStores(t *testing.T) {
	a, dir := create(t)
	b, err := dirstore.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var work sync.WaitGroup
	for _, s := range []*dirstore.Store{a, b} {
		work.Go(func() {
			for seed := range uint64(50) {
				ref, data := blocktest.Make(eris.Size1KiB, seed)
				if err := s.Put(t.Context(), ref, data); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
}
