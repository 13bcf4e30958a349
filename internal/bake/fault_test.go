package bake

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/internal/storedb"
)

// harmless are the faults that a crash may leave: files that nothing leads to.
var harmless = []string{"nar without a narinfo", "temporary file", "is indexed and has no narinfo", "tree file of an item that is not indexed",
	"torrent of an item that is not indexed"}

func checkHarmless(t *testing.T, when, faults string) {
	t.Helper()
lines:
	for line := range strings.Lines(faults) {
		for _, h := range harmless {
			if strings.Contains(line, h) {
				continue lines
			}
		}
		t.Errorf("%s: %s", when, line)
	}
}

// Each disk operation fails in turn, alone and with all after it, as when the
// process dies there. Nothing then looks whole that is not, and the next
// process puts all in order.
func TestFaults(t *testing.T) {
	two := []compress.Method{{Name: "gzip", Level: 1}, {Name: "zstd", Level: 1}}
	type scenario struct {
		name string
		do   func(s *site, info storedb.Info) // with faults
	}
	for _, sc := range []scenario{
		{"open", func(s *site, info storedb.Info) { s.try(two, func(*Cache) {}) }},
		{"bake", func(s *site, info storedb.Info) {
			s.try(two, func(c *Cache) { _, _ = c.bake(s.t.Context(), info.Path, func() {}) })
		}},
		{"adopt", func(s *site, info storedb.Info) {
			s.old(info, s.key, "zstd", "gzip")
			s.try(two, func(c *Cache) { _, _ = c.bake(s.t.Context(), info.Path, func() {}) })
		}},
		{"magnet link", func(s *site, info storedb.Info) {
			restore := durable.SetFaultForTest(func(string, string) error { return nil })
			s.torrent = false
			s.bake(Options{Methods: two}, info.Path)
			s.torrent = true
			restore()
			s.try(two, func(c *Cache) {
				_, _ = c.rewriteOne(s.t.Context(), info.Path.Hash, change{"", c.magnetDue, c.withMagnet})
			})
		}},
		{"expire", func(s *site, info storedb.Info) {
			restore := durable.SetFaultForTest(func(string, string) error { return nil })
			s.try(two, func(c *Cache) {
				if _, err := c.bake(s.t.Context(), info.Path, func() {}); err != nil {
					s.t.Fatal(err)
				}
			})
			restore()
			s.try(two, func(c *Cache) { _ = c.remove(s.t.Context(), info.Path.Hash, info.Path.Base()) })
		}},
	} {
		t.Run(sc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.torrent = true
				info := s.add("item", nil, random(1, 50<<10))
				step := 1
				if testing.Short() {
					step = 5
				}
				for _, after := range []bool{false, true} {
					for n := 1; ; n += step {
						s.clear(info, sc.name == "open")
						var count atomic.Int64
						restore := durable.SetFaultForTest(func(op, path string) error {
							if i := int(count.Add(1)); i == n || after && i > n {
								return fmt.Errorf("operation %d, %s: %w", n, op, syscall.EIO)
							}
							return nil
						})
						sc.do(s, info)
						restore()
						when := fmt.Sprintf("operation %d, after %v", n, after)
						checkHarmless(t, when, s.fsck(FsckOptions{}))
						s.bake(Options{Methods: two}, info.Path)
						c := s.open(Options{Methods: two})
						s.check(c, info)
						if err := c.Expire(t.Context()); err != nil {
							t.Errorf("%s: expire: %v", when, err)
						}
						s.close(c)
						if faults := s.fsck(FsckOptions{}); faults != "" {
							t.Errorf("%s: fsck:\n%s", when, faults)
						}
						if n > 200 {
							t.Fatal("no end")
						}
						if int(count.Load()) < n {
							t.Logf("%d operations", count.Load())
							break
						}
					}
				}
			})
		})
	}
}

// clear makes the cache folder one without entries, or all new.
func (s *site) clear(info storedb.Info, all bool) {
	s.t.Helper()
	if all {
		if err := errors.Join(os.RemoveAll(s.cache), os.Mkdir(s.cache, 0o755)); err != nil {
			s.t.Fatal(err)
		}
		return
	}
	c := s.open(Options{})
	defer s.close(c)
	if err := c.remove(s.t.Context(), info.Path.Hash, info.Path.Base()); err != nil {
		s.t.Fatal(err)
	}
	for _, method := range methodNames() {
		if err := os.RemoveAll(c.path(method)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// try opens the cache, which a fault may prevent, and runs fn.
func (s *site) try(methods []compress.Method, fn func(c *Cache)) {
	c, err := Open(s.cache, s.db, s.signer(), Options{Methods: methods, Torrents: s.torrent, Now: func() time.Time { return s.now }})
	if err != nil {
		if !errors.Is(err, syscall.EIO) {
			s.t.Error(err)
		}
		return
	}
	if s.torrent {
		c.setAhead(s.paths)
	}
	fn(c)
	s.close(c)
}

// A full disk is said once, leaves nothing, and the items are baked later.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.add("a", nil, random(1, 300<<10))
		b := s.add("b", nil, random(2, 300<<10))
		c := s.open(Options{})
		defer s.close(c)
		bake := func() {
			s.run(c, func() {
				if err := errors.Join(c.Bake(a.Path), c.Bake(b.Path)); err != nil {
					t.Error(err)
				}
			})
		}
		restore := durable.SetFaultForTest(func(op, path string) error {
			if op == "write" {
				return &os.PathError{Op: op, Path: path, Err: syscall.ENOSPC}
			}
			return nil
		})
		bake()
		restore()
		if got := s.names(); got != nil {
			t.Errorf("left %s", got)
		}
		if n := strings.Count(s.log.String(), "level=ERROR"); n != 1 {
			t.Errorf("said %d times:\n%s", n, s.log)
		}
		if err := c.Bake(a.Path); !errors.Is(err, ErrBusy) {
			t.Errorf("at once: %v", err)
		}
		s.now = s.now.Add(2 * delayFor)
		bake()
		s.check(c, a)
		s.check(c, b)
		// Another time is said again.
		d := s.add("d", nil, random(3, 300<<10))
		restore = durable.SetFaultForTest(func(string, string) error { return syscall.ENOSPC })
		s.run(c, func() {
			if err := c.Bake(d.Path); err != nil {
				t.Error(err)
			}
		})
		restore()
		if n := strings.Count(s.log.String(), "level=ERROR"); n != 2 {
			t.Errorf("said %d times:\n%s", n, s.log)
		}
	})
}

const killEnv = "ERSATZ_TEST_BAKE_IN"

// A process that is killed at any moment leaves nothing that looks whole.
func TestKill(t *testing.T) {
	s := newSite(t)
	var all []storedb.Info
	for i := range 3 {
		all = append(all, s.add(fmt.Sprint("item", i), nil, random(byte(i), 400<<10)))
	}
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKillChild$")
		cmd.Env = append(os.Environ(), killEnv+"="+filepath.Dir(s.store))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("child: %q, %v", line, err)
		}
		select {
		case <-time.After(time.Duration(round*round) * 3 * time.Millisecond):
		case <-t.Context().Done():
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // it was killed
		when := fmt.Sprint("round ", round)
		checkHarmless(t, when, s.fsck(FsckOptions{}))
		s.now = time.Now()
		c := s.open(Options{})
		for _, info := range all {
			if _, err := c.bake(t.Context(), info.Path, func() {}); err != nil {
				t.Error(err)
			}
			s.check(c, info)
		}
		s.now = s.now.Add(2 * strayAge)
		if err := c.Expire(t.Context()); err != nil {
			t.Error(err)
		}
		s.close(c)
		if faults := s.fsck(FsckOptions{}); faults != "" {
			t.Errorf("%s: fsck:\n%s", when, faults)
		}
	}
}

// TestKillChild is the process that TestKill kills: it bakes and removes.
func TestKillChild(t *testing.T) {
	dir := os.Getenv(killEnv)
	if dir == "" {
		t.Skip("run by TestKill")
	}
	store := filepath.Join(dir, "store")
	db, err := storedb.Open(storedb.Options{StoreDir: store, StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(filepath.Join(dir, "cache"), db, Signer{Guix: key}, Options{Methods: fast})
	if err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(store)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	for t.Context().Err() == nil {
		for _, e := range names {
			p := storePath(t, store, e.Name())
			if _, err := c.bake(t.Context(), p, func() {}); err != nil {
				t.Fatal(err)
			}
			if err := c.remove(t.Context(), p.Hash, p.Base()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The memory of a bake does not depend on the size of the nar.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 256 MB")
	}
	s := newSite(t)
	info := s.add("small", nil, random(1, 1<<20))
	const size = 256 << 20
	large := storePath(t, s.store, strings.Repeat("1", 32)+"-large")
	f, err := os.Create(large.String())
	if err != nil {
		t.Fatal(err)
	}
	piece := random(2, 1<<20)
	for i := range size >> 20 {
		piece[0], piece[1] = byte(i), byte(i>>8)
		if _, err := f.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	big := s.register(large, nil)
	c := s.open(Options{Methods: []compress.Method{compress.None}})
	defer s.close(c)
	grown := func(info storedb.Info) int64 {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		if _, err := c.bake(t.Context(), info.Path, func() {}); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return int64(after.Sys) - int64(before.Sys)
	}
	grown(info)
	n := grown(big)
	t.Logf("memory taken from the system for %d MB: %.1f MB", size>>20, float64(n)/1e6)
	if n > 24<<20 {
		t.Errorf("baking %d bytes took %d more bytes of memory", size, n)
	}
}
