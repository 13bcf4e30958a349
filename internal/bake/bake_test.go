package bake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/storepath"
)

func TestBake(t *testing.T) {
	methods := []compress.Method{{Name: "gzip", Level: 1}, {Name: "zstd", Level: 1}, {Name: "lzip", Level: 1}, compress.None}
	for _, tt := range []struct {
		name    string
		methods []compress.Method
		format  string
		size    eris.BlockSize
		content []byte
		nars    string
	}{
		{"large", fast, "+zstd-1", eris.Size32KiB, random(1, 3<<20), "nar/zstd/"},
		{"small", fast, "+zstd-1", eris.Size1KiB, random(1, 12<<10), "nar/zstd/"},
		{"tiny", fast, "+zstd-1", eris.Size1KiB, nil, "nar/zstd/"},
		{"zeros", fast, "+zstd-1", eris.Size1KiB, make([]byte, 1<<20), "nar/zstd/"},
		{"all", methods, "+zstd-1", eris.Size32KiB, random(2, 100<<10), "nar/gzip/ nar/zstd/ nar/lzip/ nar/"},
		{"lzip", []compress.Method{{Name: "lzip", Level: 1}, {Name: "gzip", Level: 2}}, "+lzip-1", eris.Size32KiB, random(2, 100<<10), "nar/lzip/ nar/gzip/"},
		{"none", []compress.Method{compress.None}, "", eris.Size32KiB, make([]byte, 100<<10), "nar/"},
		{"tarball.tar.gz", methods, "", eris.Size32KiB, random(3, 100<<10), "nar/"},
		{"gtk+-3.0", fast, "+zstd-1", eris.Size1KiB, []byte("x"), "nar/zstd/"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				dep := s.add("dep", nil, []byte("dep"))
				info := s.add(tt.name, []storepath.Path{dep.Path}, tt.content)
				s.bake(Options{Methods: tt.methods}, info.Path)
				c := s.open(Options{Methods: tt.methods})
				defer s.close(c)
				s.check(c, info)
				n, signed := s.narinfo(info.Path.Hash)
				if signed.ERISFormat != "application/x-nix-archive"+tt.format {
					t.Errorf("ERISFormat %s", signed.ERISFormat)
				}
				if rc, err := eris.ParseURN(signed.ERIS); err != nil || rc.Size != tt.size {
					t.Errorf("block size %s, %v", rc.Size, err)
				}
				if !slices.Equal(signed.References, []string{dep.Path.Base()}) || signed.Deriver != strings.Repeat("d", 32)+"-"+tt.name+".drv" {
					t.Errorf("references %q, deriver %q", signed.References, signed.Deriver)
				}
				var dirs []string
				for _, one := range n.Nars {
					dir, base, _ := strings.Cut(one.URL, info.Path.Hash)
					dirs = append(dirs, dir)
					if want := "-" + strings.ReplaceAll(tt.name, "+", "%2B"); base != want {
						t.Errorf("URL %s", one.URL)
					}
				}
				if got := strings.Join(dirs, " "); got != tt.nars {
					t.Errorf("nars in %s, want %s", got, tt.nars)
				}
				if faults := s.fsck(FsckOptions{}); faults != "" {
					t.Errorf("fsck:\n%s", faults)
				}
			})
		})
	}
}

// However many files are in the folder, Open reads none of its names: what a
// killed process has left goes while clients are served.
func TestOpenReadsNoFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.close(s.open(Options{}))
		before, later := filepath.Join(s.cache, ".tmp-before"), filepath.Join(s.cache, ".tmp-later")
		for _, name := range []string{before, later} {
			if err := os.WriteFile(name, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		c, err := Open(s.cache, s.db, s.signer(), Options{Methods: fast})
		if err != nil {
			t.Fatal(err)
		}
		defer s.close(c)
		if !folder.Exists(before) {
			t.Error("Open has looked for temporary files")
		}
		// One is older than the process, the other one is in the making.
		for name, at := range map[string]time.Time{before: c.begun.Add(-time.Second), later: c.begun} {
			if err := os.Chtimes(name, at, at); err != nil {
				t.Fatal(err)
			}
		}
		s.run(c, func() {})
		if folder.Exists(before) || !folder.Exists(later) {
			t.Errorf("of before: %v, in the making: %v", folder.Exists(before), folder.Exists(later))
		}
	})
}

func TestOpen(t *testing.T) {
	s := newSite(t)
	for _, name := range []string{".tmp-1", "nar/.tmp-2", "nar/zstd/.tmp-3", "eris/tree/.tmp-4"} {
		file := filepath.Join(s.cache, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.now = time.Now()
	c := s.open(Options{})
	if got := s.names(); got != nil {
		t.Errorf("left %s", got)
	}
	for name, want := range map[string]string{
		infoFile: "StoreDir: " + s.store + "\nWantMassQuery: 0\nPriority: 100\n",
		KeyFile:  string(s.key.Public().Text()),
	} {
		if got, err := os.ReadFile(filepath.Join(s.cache, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := Open(s.cache, s.db, s.signer(), Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	s.close(c)
	s.close(s.open(Options{}))
	for _, o := range []Options{
		{NarPath: "/nar"}, {NarPath: "../nar"}, {NarPath: "a/../b"}, {NarPath: "."}, {NarPath: "eris"}, {NarPath: "eris/x"},
		{NarPath: "hashes"}, {NarPath: "zstd"}, {NarPath: "nix-cache-info"},
		{Methods: []compress.Method{{Name: "xz"}}}, {Methods: []compress.Method{fast[0], {Name: "zstd", Level: 3}}},
	} {
		if c, err := Open(s.cache, s.db, s.signer(), o); err == nil {
			t.Errorf("%+v was taken", o)
			s.close(c)
		}
	}
	if c, err := Open(s.cache, s.db, Signer{Guix: s.key, Host: "a;b"}, Options{}); err == nil {
		t.Error("a host name with a semicolon was taken")
		s.close(c)
	}
}

// The queue has an end, and an item stands in it once.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		var paths []storepath.Path
		for i := range 3 {
			paths = append(paths, s.add(fmt.Sprint("item", i), nil, random(byte(i), 1000)).Path)
		}
		c := s.open(Options{Queue: 2})
		defer s.close(c)
		for _, p := range paths[:2] {
			for range 2 {
				if err := c.Bake(p); err != nil {
					t.Error(err)
				}
			}
		}
		if err := c.Bake(paths[2]); !errors.Is(err, ErrBusy) {
			t.Errorf("a full queue: %v", err)
		}
		if got := c.Status().Queued; got != 2 {
			t.Errorf("%d queued", got)
		}
		s.run(c, func() {})
		s.run(c, func() {
			if err := c.Bake(paths[2]); err != nil {
				t.Error(err)
			}
		})
		if got := c.Status(); got != (Status{Baked: 3}) {
			t.Errorf("status %+v", got)
		}
		// Once more is nothing.
		s.run(c, func() {
			if err := c.Bake(paths[2]); err != nil {
				t.Error(err)
			}
		})
		if got := c.Status(); got != (Status{Baked: 3}) {
			t.Errorf("status %+v", got)
		}
	})
}

// An item that is not what the database says is not baked, nor tried again at
// once, and leaves nothing.
func TestBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		changed := s.add("changed", nil, []byte("a"))
		grown := s.add("grown", nil, []byte("a"))
		fifo := s.add("gone", nil, []byte("a"))
		missing := storePath(t, s.store, strings.Repeat("x", 32)+"-none")
		for name, content := range map[string]string{
			changed.Path.String() + "/file0": "b", grown.Path.String() + "/file0": strings.Repeat("b", 1000),
		} {
			if err := errors.Join(os.Remove(name), os.WriteFile(name, []byte(content), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.RemoveAll(fifo.Path.String()); err != nil {
			t.Fatal(err)
		}
		c := s.open(Options{})
		defer s.close(c)
		all := []storepath.Path{changed.Path, grown.Path, fifo.Path, missing}
		s.run(c, func() {
			for _, p := range all {
				if err := c.Bake(p); err != nil {
					t.Error(err)
				}
			}
		})
		if got := s.names(); got != nil {
			t.Errorf("left %s", got)
		}
		for i, want := range []error{ErrFailed, ErrFailed, ErrBusy, ErrFailed} {
			if err := c.Bake(all[i]); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", all[i], err, want)
			}
		}
		if got := c.Status(); got != (Status{Failed: 4}) {
			t.Errorf("status %+v", got)
		}
		s.now = s.now.Add(2 * brokenFor)
		for _, p := range all {
			if err := c.Bake(p); err != nil {
				t.Errorf("later: %v", err)
			}
		}
	})
}

func TestBakeClosure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		var refs []storepath.Path
		for i := range 20 {
			refs = append(refs, s.add(fmt.Sprint("dep", i), nil, random(byte(i), 1000)).Path)
		}
		root := s.add("root", refs, []byte("root"))
		other := s.add("other", nil, []byte("other"))
		link := filepath.Join(t.TempDir(), "profile")
		if err := os.Symlink(root.Path.String(), link); err != nil {
			t.Fatal(err)
		}
		roots, err := RootsOf(s.db, link)
		if err != nil || !slices.Equal(roots, []storepath.Path{root.Path}) {
			t.Fatalf("roots %v, %v", roots, err)
		}
		c := s.open(Options{Queue: 1, Workers: 1})
		defer s.close(c)
		s.run(c, func() {
			if err := c.BakeClosure(t.Context(), roots); err != nil {
				t.Error(err)
			}
		})
		if got := c.Status().Baked; got != 21 {
			t.Errorf("%d items baked", got)
		}
		if c.has(other.Path.Hash) {
			t.Error("an item outside the closure was baked")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.BakeClosure(ctx, []storepath.Path{other.Path}); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if err := c.BakeClosure(t.Context(), []storepath.Path{storePath(t, s.store, strings.Repeat("x", 32)+"-none")}); err == nil {
			t.Error("a root that is not valid was taken")
		}
	})
}

// TestBakeAhead follows a profile that comes to lead elsewhere, with a time in
// between when it leads nowhere.
func TestBakeAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		first, second := s.add("first", nil, []byte("first")), s.add("second", nil, []byte("second"))
		profile := filepath.Join(t.TempDir(), "profile")
		lead := func(to string) {
			if err := errors.Join(os.RemoveAll(profile), os.Symlink(to, profile)); err != nil {
				t.Fatal(err)
			}
		}
		lead(first.Path.String())
		c := s.open(Options{})
		defer s.close(c)
		s.run(c, func() {
			ctx, cancel := context.WithTimeout(t.Context(), 3*rootsEvery-time.Minute)
			defer cancel()
			var work sync.WaitGroup
			work.Go(func() { c.BakeAhead(ctx, []string{profile}) })
			synctest.Wait()
			if !c.has(first.Path.Hash) || c.has(second.Path.Hash) {
				t.Error("not the first alone is baked at once")
			}
			lead("/nowhere")
			time.Sleep(rootsEvery + time.Minute)
			lead(second.Path.String())
			work.Wait()
		})
		if !c.has(second.Path.Hash) {
			t.Error("the second is not baked")
		}
		if log := s.log.String(); !strings.Contains(log, "baking ahead") {
			t.Errorf("nothing is said of the link to nowhere:\n%s", log)
		}
	})
}

// A disk that was full, or a root that is not valid yet, keeps nothing from
// being baked ahead for long.
func TestBakeAheadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a, b := s.add("a", nil, []byte("a")), s.add("b", nil, []byte("b"))
		late := storePath(t, s.store, strings.Repeat("1", 32)+"-late")
		list := filepath.Join(t.TempDir(), "roots")
		write := func(roots ...storepath.Path) {
			var text strings.Builder
			for _, p := range roots {
				fmt.Fprintln(&text, p)
			}
			if err := os.WriteFile(list, []byte(text.String()), 0o644); err != nil {
				t.Error(err)
			}
		}
		write(a.Path)
		start := time.Now()
		c := s.open(Options{Now: func() time.Time { return s.now.Add(time.Since(start)) }})
		defer s.close(c)
		s.run(c, func() {
			ctx, cancel := context.WithCancel(t.Context())
			var work sync.WaitGroup
			restore := durable.SetFaultForTest(func(string, string) error { return syscall.ENOSPC })
			work.Go(func() { c.BakeAhead(ctx, []string{list}) })
			synctest.Wait()
			restore()
			time.Sleep(rootsEvery + time.Second)
			synctest.Wait()
			if !c.has(a.Path.Hash) {
				t.Error("not baked when the disk has room again")
			}
			write(late, b.Path)
			time.Sleep(rootsEvery)
			synctest.Wait()
			if !c.has(b.Path.Hash) {
				t.Error("not baked beside a root that is not valid")
			}
			if err := os.WriteFile(late.String(), nil, 0o444); err != nil {
				t.Error(err)
			}
			s.register(late, nil)
			time.Sleep(rootsEvery)
			synctest.Wait()
			if !c.has(late.Hash) {
				t.Error("not baked when it is valid")
			}
			cancel()
			work.Wait()
		})
	})
}

func TestRootsOf(t *testing.T) {
	s := newSite(t)
	a := s.add("a", nil, []byte("a"))
	b := s.add("b", nil, []byte("b"))
	file := filepath.Join(t.TempDir(), "roots")
	text := "# what we need\n" + a.Path.String() + "\n\n  " + b.Path.String() + "/file0 \n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := RootsOf(s.db, file)
	if err != nil || !slices.Equal(got, []storepath.Path{a.Path, b.Path}) {
		t.Errorf("got %v, %v", got, err)
	}
	got, err = RootsOf(s.db, a.Path.String()+"/file0")
	if err != nil || !slices.Equal(got, []storepath.Path{a.Path}) {
		t.Errorf("got %v, %v", got, err)
	}
	// An item can be a link, to another one or to nowhere; a profile is a link
	// to a link to an item.
	dir := filepath.Dir(file)
	item := func(c string) string { return filepath.Join(s.store, strings.Repeat(c, 32)+"-link") }
	for link, to := range map[string]string{
		item("1"): a.Path.String(), item("2"): "/nowhere", filepath.Join(dir, "profile"): "profile-1-link",
		filepath.Join(dir, "profile-1-link"): item("1"), filepath.Join(dir, "loop"): "loop", filepath.Join(dir, "up"): "..",
	} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		filepath.Join(dir, "profile"): item("1"), item("2"): item("2"),
		filepath.Join(dir, "up", filepath.Base(dir), "profile"): item("1"),
	} {
		if got, err := RootsOf(s.db, name); err != nil || len(got) != 1 || got[0].String() != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := RootsOf(s.db, filepath.Join(dir, "loop")); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a loop: %v", err)
	}
	if err := os.WriteFile(file, []byte("/etc/passwd\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		file: "line 1", filepath.Dir(file): "neither", file + "x": "no such file", s.store: "neither",
	} {
		if _, err := RootsOf(s.db, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The same bytes make the same blocks, whoever bakes them and however the
// stream is cut.
func TestEncoder(t *testing.T) {
	for _, n := range []int{0, 1, small - 1, small, small + 1, 100 << 10} {
		content := random(1, n)
		want, _, err := eris.Encode(bytes.NewReader(content), eris.Recommended(int64(n)), eris.Secret{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range []int{1, 1000, small, 1 << 20} {
			var e encoder
			for part := range slices.Chunk(content, piece) {
				if _, err := e.Write(part); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := e.finish(); err != nil || got != want || e.n != int64(n) {
				t.Errorf("%d bytes by %d: %s, %v", n, piece, got.URN(), err)
			}
		}
	}
}

func TestTouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		info := s.add("item", nil, []byte("x"))
		s.bake(Options{}, info.Path)
		c := s.open(Options{})
		defer s.close(c)
		name := filepath.Join(s.cache, info.Path.Hash+suffix)
		before, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		first, err := folder.AccessTime(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			now  time.Time
			want time.Time
		}{
			{first.Add(touchEvery - time.Second), first},
			{first.Add(touchEvery + time.Second), first.Add(touchEvery + time.Second)},
			{first.Add(touchEvery + time.Minute), first.Add(touchEvery + time.Second)},
		} {
			s.now = tt.now
			c.Touch(info.Path.Hash)
			if got, err := folder.AccessTime(name); err != nil || !got.Equal(tt.want) {
				t.Errorf("access time %v, want %v; %v", got, tt.want, err)
			}
		}
		if after, err := os.Stat(name); err != nil || !after.ModTime().Equal(before.ModTime()) {
			t.Errorf("the time of its content has changed: %v", err)
		}
		// Who asks all the time is noted in time, also with a short TTL.
		c.o.TTL = time.Minute
		s.now = s.now.Add(c.o.TTL)
		c.Touch(info.Path.Hash)
		if got, err := folder.AccessTime(name); err != nil || !got.Equal(s.now) {
			t.Errorf("access time %v, want %v; %v", got, s.now, err)
		}
		c.Touch("../../etc/passwd")
		c.Touch(strings.Repeat("0", 32))
		if log := s.log.String(); strings.Contains(log, "WARN") {
			t.Error(log)
		}
	})
}

// TestTook has each look at the clock find a second gone.
func TestTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		paths := []storepath.Path{s.add("one", nil, random(1, 100)).Path, s.add("two", nil, random(2, 100)).Path}
		var seconds atomic.Int64
		c := s.open(Options{Workers: 1, Now: func() time.Time { return s.now.Add(time.Duration(seconds.Add(1)) * time.Second) }})
		defer s.close(c)
		s.run(c, func() {
			for _, p := range paths {
				if err := c.Bake(p); err != nil {
					t.Error(err)
				}
			}
		})
		if got := c.Status(); got.Baked != 2 || got.Took < 2*time.Second || got.Took > time.Minute {
			t.Errorf("status %+v", got)
		}
	})
}
