package keep

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
)

// harmless are the faults that a crash may leave: files that nothing leads to.
var harmless = []string{"nar of no item", "temporary file", "is indexed and not kept", "tree file of an item that is not indexed", partsDir + "/"}

// Each disk operation fails in turn, alone and with all after it, as when the
// process dies there. Nothing then looks whole that is not, what was in a part
// is there still or is an item, and the next process puts all in order.
func TestFaults(t *testing.T) {
	x, other := makeThing(t, 0, 100_000), makeThing(t, 1, 50_000)
	twin := x.twin(t, 2)
	type scenario struct {
		name   string
		makes  bool // an item of x
		before func(s *Store)
		do     func(s *Store) error // with faults
	}
	byBlocks := func(s *Store) error {
		p, err := s.Part(BlocksID(x.ReadCap), x.about())
		if err != nil {
			return err
		}
		err = func() error {
			for _, b := range x.nodes {
				if err := p.Store(b.Level, b.Index, b.Node); err != nil {
					return err
				}
				p.Done(b.Level, b.Index, b.Ref, b.Key)
			}
			p.Finish(int64(len(x.file)))
			_, err := p.Commit(t.Context(), x.Item, x.tree)
			return err
		}()
		return errors.Join(err, p.Close())
	}
	for _, sc := range []scenario{
		{"open", false, func(*Store) {}, func(*Store) error { return nil }},
		{"blocks", true, func(*Store) {}, byBlocks},
		{"replace", true, func(s *Store) { put(t, s, x) }, byBlocks},
		{"nar", true, func(*Store) {}, func(s *Store) error {
			a := x.about()
			p, err := s.Part(NarID(a), a)
			if err != nil {
				return err
			}
			if _, err = p.Append(x.file[p.Size():]); err == nil {
				p.Finish(int64(len(x.file)))
				_, err = p.Commit(t.Context(), x.Item, nil)
			}
			return errors.Join(err, p.Close())
		}},
		{"also", true, func(s *Store) { put(t, s, twin) }, func(s *Store) error {
			f, err := s.Open(twin.Path.Hash)
			if err != nil {
				return err
			}
			return errors.Join(f.Also(t.Context(), x.Item), f.Close())
		}},
		{"remove", false, func(s *Store) { put(t, s, x) }, func(s *Store) error { return s.Remove(t.Context(), x.Path.Hash) }},
		{"reset", false, func(*Store) {}, func(s *Store) error {
			p, err := s.Part(BlocksID(x.ReadCap), x.about())
			if err != nil {
				return err
			}
			return errors.Join(p.Store(0, 0, x.nodes[0].Node), p.Reset(), p.Close())
		}},
	} {
		t.Run(sc.name, func(t *testing.T) {
			step := 1
			if testing.Short() {
				step = 5
			}
			top := memory(t)
			first := filepath.Join(top, "first")
			if err := os.Mkdir(first, 0o700); err != nil {
				t.Fatal(err)
			}
			if sc.name != "open" {
				s := open(t, first, Options{})
				put(t, s, other)
				sc.before(s)
				closing(t, s)
			}
			for _, after := range []bool{false, true} {
				for n := 1; ; n += step {
					dir := filepath.Join(top, "state")
					if err := os.CopyFS(dir, os.DirFS(first)); err != nil {
						t.Fatal(err)
					}
					var count atomic.Int64
					restore := durable.SetFaultForTest(func(op, path string) error {
						if i := int(count.Add(1)); i == n || after && i > n {
							return fmt.Errorf("operation %d, %s: %w", n, op, syscall.ENOSPC)
						}
						return nil
					})
					s, err := Open(dir, Options{})
					if err == nil {
						err = sc.do(s)
						closing(t, s)
					}
					restore()
					when := fmt.Sprintf("operation %d, after %v (%v)", n, after, err)
					hit := int(count.Load()) >= n
					if err != nil && !errors.Is(err, syscall.ENOSPC) {
						t.Errorf("%s: another error", when)
					}
					checkHarmless(t, dir, when)
					again(t, dir, when, x, other, sc.do, sc.name == "open", sc.makes && err == nil)
					if err := os.RemoveAll(dir); err != nil {
						t.Fatal(err)
					}
					if n > 300 {
						t.Fatal("no end")
					}
					if !hit {
						t.Logf("%d operations", count.Load())
						break
					}
				}
			}
		})
	}
}

// checkHarmless wants nothing wrong in a folder but what is harmless. No process has
// the folder, so that nothing need be looked at twice, which takes its time.
func checkHarmless(t *testing.T, dir, when string) {
	t.Helper()
	c := &checker{Check: folder.Check{Dir: dir, Alone: true, Report: func(f folder.Fault) {
		line := f.File + ": " + f.Text
		if !slices.ContainsFunc(harmless, func(h string) bool { return strings.Contains(line, h) }) {
			t.Errorf("%s: %s", when, line)
		}
	}}, o: CheckOptions{Now: time.Now}}
	if err := c.run(t.Context()); err != nil {
		t.Errorf("%s: %v", when, err)
	}
}

// again does without faults what was done with them.
func again(t *testing.T, dir, when string, x, other *thing, do func(*Store) error, empty, made bool) {
	t.Helper()
	s := open(t, dir, Options{})
	if _, err := s.Get(x.Path.Hash); err == nil {
		kept(t, s, x)
		if n := given(t, s.Blocks(nil), x); n != len(x.nodes) {
			t.Errorf("%s: %d blocks of %d", when, n, len(x.nodes))
		}
	} else if made {
		t.Errorf("%s: committed, and %v", when, err)
	}
	if !empty {
		kept(t, s, other)
	}
	if err := do(s); err != nil {
		t.Errorf("%s: again: %v", when, err)
	}
	closing(t, s)
	if f := faults(t, dir, CheckOptions{}); f != "" {
		t.Errorf("%s: at last: %s", when, f)
	}
}

// After an error of Commit the part is as it was, and a second Commit does it.
func TestCommitAgain(t *testing.T) {
	x := makeThing(t, 0, 100_000)
	top := memory(t)
	for n := 1; ; n++ {
		dir := filepath.Join(top, "state")
		s := open(t, dir, Options{})
		p := part(t, s, x)
		fill(t, p, x)
		count := 0
		restore := durable.SetFaultForTest(func(op, _ string) error {
			if count++; count == n {
				return syscall.EIO
			}
			return nil
		})
		_, err := p.Commit(t.Context(), x.Item, x.tree)
		restore()
		if err != nil {
			if given(t, s.Blocks(nil), x) != len(x.nodes) {
				t.Errorf("operation %d: blocks are gone", n)
			}
			if _, err := p.Commit(t.Context(), x.Item, x.tree); err != nil {
				t.Errorf("operation %d: again: %v", n, err)
			}
		}
		kept(t, s, x)
		closing(t, p)
		closing(t, s)
		s = open(t, dir, Options{}) // sweeps
		kept(t, s, x)
		closing(t, s)
		if f := faults(t, dir, CheckOptions{}); f != "" {
			t.Errorf("operation %d: %s", n, f)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if count < n {
			break
		}
	}
}

// A full disk keeps what there was, and says so.
func TestFullDisk(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	x := makeThing(t, 0, 200_000)
	a := x.about()
	p, err := s.Part(NarID(a), a)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, p)
	if _, err := p.Append(x.file[:1000]); err != nil {
		t.Fatal(err)
	}
	restore := durable.SetFaultForTest(func(op, _ string) error { return syscall.ENOSPC })
	n, err := p.Append(x.file[1000:])
	restore()
	if n != 0 || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), x.Path.String()) {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := p.Append(x.file[p.Size():]); err != nil {
		t.Fatal(err)
	}
	p.Finish(p.Size())
	if _, err := p.Commit(t.Context(), x.Item, nil); err != nil {
		t.Fatal(err)
	}
	kept(t, s, x)
}

// killed is the environment of the process that TestKilled kills.
const killed = "ERSATZ_TEST_KEEP"

// TestKilledChild is that process: it stores blocks and says how many.
func TestKilledChild(t *testing.T) {
	dir := os.Getenv(killed)
	if dir == "" {
		t.Skip("only for TestKilled")
	}
	x := makeThing(t, 0, 3<<20)
	p := part(t, open(t, dir, Options{}), x)
	for n, b := range x.nodes {
		// From the end, so that internal nodes come first.
		b = x.nodes[len(x.nodes)-1-n]
		if err := p.Store(b.Level, b.Index, b.Node); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("stored %d\n", n+1)
	}
	select {} // until it is killed
}

// What a process had stored when it was killed is not asked for again.
func TestKilled(t *testing.T) {
	x := makeThing(t, 0, 3<<20)
	for _, at := range []int{1, 2, len(x.nodes) / 2, len(x.nodes)} {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledChild$")
		cmd.Env = append(os.Environ(), killed+"="+dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when this test runs out of time
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stored := 0
		lines := bufio.NewScanner(out)
		for stored < at && lines.Scan() {
			if n, ok := strings.CutPrefix(lines.Text(), "stored "); ok {
				stored, _ = strconv.Atoi(n)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, out) // it may have said more
		_ = cmd.Wait()                  // killed
		if stored < at {
			t.Fatalf("only %d stored", stored)
		}
		s := open(t, dir, Options{})
		p := part(t, s, x)
		src := &from{x: x, asked: map[eris.Ref]int{}}
		if _, err := eris.NewFiller(x.ReadCap, p, eris.FillOptions{}).Run(t.Context(), src); err != nil {
			t.Fatal(err)
		}
		if want := len(x.nodes) - stored; len(src.asked) > want {
			t.Errorf("%d blocks asked for, %d were missing", len(src.asked), want)
		}
		closing(t, p)
		closing(t, s)
	}
}
