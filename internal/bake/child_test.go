package bake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/compress"
)

const childEnv = "ERSATZ_TEST_BAKE_CHILD"

// TestChildProcess is the process that the others of this file have.
func TestChildProcess(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		t.Skip("run by other tests")
	}
	if err := Child(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(0) // as a program that is at the end of main
}

// childCommand returns a command that runs Child.
func childCommand() *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildProcess$")
	// The race detector would wait for a second at the end, while jobs go on.
	cmd.Env = append(os.Environ(), childEnv+"=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// await waits for what other processes do meanwhile. It leaves them the processor:
// they have the lowest priority.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 6000 {
		if ok() {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Fatal("waiting in vain for " + what)
}

// childPIDs returns the processes that this one has started.
func childPIDs(t *testing.T) (pids []int) {
	t.Helper()
	names, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// descriptors returns how many this process has that lead to others.
func descriptors(t *testing.T) (n int) {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		to, err := os.Readlink(name)
		if err == nil && (strings.HasPrefix(to, "pipe:") || strings.Contains(to, "pidfd")) {
			n++
		}
	}
	return n
}

// serve runs a cache until fn has returned.
func (s *site) serve(c *Cache, fn func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	fn()
	cancel()
	if err := <-done; err != nil {
		s.t.Error(err)
	}
}

// What a process of its own makes is what this one makes. It goes when the cache
// does, and keeps nothing.
func TestChildBakes(t *testing.T) {
	s := newSite(t)
	s.torrent = true
	s.cache += "\xff" // no UTF-8
	s.add("small", nil, random(1, 3000))
	s.add("large", nil, lines(3<<20), random(2, 700_000))
	two := []compress.Method{{Name: "gzip", Level: 1}, {Name: "zstd", Level: 1}}
	var narinfos [2][]string
	for i, command := range []func() *exec.Cmd{nil, childCommand} {
		if err := os.RemoveAll(s.cache); err != nil {
			t.Fatal(err)
		}
		c := s.open(Options{Methods: two, Child: command, Workers: 1})
		fds := descriptors(t)
		s.serve(c, func() {
			for _, p := range s.paths {
				if err := c.Bake(p); err != nil {
					t.Error(err)
				}
			}
			await(t, "both items", func() bool { return c.Status().Baked == 2 })
			if n := len(childPIDs(t)); n != i {
				t.Errorf("%d processes for one worker", n)
			}
		})
		if cpu := c.Status().CPU; (cpu > 0) != (command != nil) {
			t.Errorf("%v of processor time", cpu)
		}
		if pids := childPIDs(t); len(pids) > 0 {
			t.Errorf("left %v", pids)
		}
		if n := descriptors(t); n > fds {
			t.Errorf("%d descriptors, %d before", n, fds)
		}
		for _, p := range s.paths {
			info, err := s.db.Info(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			s.check(c, info)
			n, _ := s.narinfo(p.Hash)
			narinfos[i] = append(narinfos[i], n.ERIS+n.ERISMagnet)
		}
		s.close(c)
		if faults := s.fsck(FsckOptions{}); faults != "" {
			t.Error(faults)
		}
	}
	if fmt.Sprint(narinfos[0]) != fmt.Sprint(narinfos[1]) {
		t.Errorf("this process made %s, the other %s", narinfos[0], narinfos[1])
	}
}

// A process that is killed at its work costs nothing but the attempt.
func TestChildKilled(t *testing.T) {
	s := newSite(t)
	info := s.add("item", nil, random(1, 12<<20)) // seconds at this level
	c := s.open(Options{Methods: []compress.Method{{Name: "zstd", Level: 19}}, Child: childCommand})
	defer s.close(c)
	s.serve(c, func() {
		if err := c.Bake(info.Path); err != nil {
			t.Fatal(err)
		}
		pid := 0
		await(t, "a process at work", func() bool {
			pids := childPIDs(t)
			temp, err := filepath.Glob(c.path("nar/zstd/.tmp-*"))
			if err != nil || len(pids) != 1 || len(temp) != 1 {
				return false
			}
			pid = pids[0]
			used, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
			return err == nil && bytes.Contains(used, []byte("rchar: ")) && !bytes.Contains(used, []byte("rchar: 0\n")) && lowered(t, pid)
		})
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		await(t, "the failure", func() bool { return c.Status().Failed == 1 })
	})
	if got := s.names(); got != nil {
		t.Errorf("left %s", got)
	}
	if text := s.log.String(); !strings.Contains(text, "signal: killed, as the kernel does") {
		t.Errorf("said %s", text)
	}
	if err := c.Bake(info.Path); !errors.Is(err, ErrBusy) {
		t.Errorf("at once: %v", err)
	}
	s.now = s.now.Add(2 * delayFor)
	c.o.Methods = fast
	s.serve(c, func() {
		if err := c.Bake(info.Path); err != nil {
			t.Error(err)
		}
		await(t, "the item", func() bool { return c.Status().Baked == 1 })
	})
	s.check(c, info)
}

// lowered reports whether a process has the lowest priority, all its threads.
func lowered(t *testing.T, pid int) bool {
	t.Helper()
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return false
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(rest) // from the third on, proc_pid_stat(5)
		if f[41-3] != "5" {
			return false
		}
	}
	adj, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	return err == nil && string(adj) == "500\n" && len(names) > 1
}

// The end of the server ends what is under way, and the process.
func TestChildInterrupted(t *testing.T) {
	s := newSite(t)
	info := s.add("item", nil, random(1, 12<<20))
	c := s.open(Options{Methods: []compress.Method{{Name: "zstd", Level: 19}}, Child: childCommand})
	defer s.close(c)
	s.serve(c, func() {
		if err := c.Bake(info.Path); err != nil {
			t.Fatal(err)
		}
		await(t, "a process", func() bool { return len(childPIDs(t)) == 1 })
	})
	if got, st, pids := s.names(), c.Status(), childPIDs(t); got != nil || st.Failed+st.Baked != 0 || len(pids) > 0 {
		t.Errorf("left %s, %+v, processes %v", got, st, pids)
	}
}

// A process whose server is gone goes too, in the middle of its work.
func TestChildAlone(t *testing.T) {
	s := newSite(t)
	info := s.add("item", nil, random(1, 12<<20))
	dir := t.TempDir()
	c, err := start(childCommand())
	if err != nil {
		t.Fatal(err)
	}
	j := testJob(t, dir, info.Path.String(), compress.Method{Name: "zstd", Level: 19})
	j.Size = int64(info.NarSize)
	line, err := marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.in.Write(line); err != nil {
		t.Fatal(err)
	}
	await(t, "its priority", func() bool { return lowered(t, c.cmd.Process.Pid) })
	if err := c.in.Close(); err != nil {
		t.Fatal(err)
	}
	if c.out.Scan() {
		t.Errorf("it answered %q", c.out.Text())
	}
	if err := c.cmd.Wait(); err != nil || c.said.String() != "" {
		t.Error(err, c.said.String())
	}
}

// testJob returns a job whose files are in a folder.
func testJob(t *testing.T, dir, path string, m compress.Method) job {
	t.Helper()
	j := job{Path: fileName(path), Size: 1000, Forms: []form{{m, 1, fileName(filepath.Join(dir, "nar"))}}, Tree: fileName(filepath.Join(dir, "tree"))}
	for _, name := range []fileName{j.Tree, j.Forms[0].File} {
		if err := os.WriteFile(string(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

// What is wrong keeps its kind on its way here, and the process goes on.
func TestChildFaults(t *testing.T) {
	s := newSite(t)
	info := s.add("item", nil, random(1, 300_000))
	dir := t.TempDir()
	k := &children{command: childCommand, log: slog.New(slog.DiscardHandler)}
	defer k.close()
	good := testJob(t, dir, info.Path.String(), fast[0])
	full, missing, nameless := good, good, good
	full.Forms = []form{{compress.None, 1, "/dev/full"}}
	missing.Path += "-not"
	nameless.Tree += "-not"
	for name, x := range map[string]struct {
		j    job
		want error
	}{"full disk": {full, syscall.ENOSPC}, "missing item": {missing, fs.ErrNotExist}, "missing file": {nameless, fs.ErrNotExist}} {
		if _, err := k.make(t.Context(), x.j); !errors.Is(err, x.want) || !isFull(err) && x.j.Forms[0].File == "/dev/full" {
			t.Errorf("%s: %v", name, err)
		}
		if pids := childPIDs(t); len(pids) != 1 || k.died != 0 {
			t.Errorf("%s: %d processes, %d died", name, len(pids), k.died)
		}
	}
	m, err := k.make(t.Context(), good)
	if err != nil || m.Nar.Hash != info.NarHash || len(m.Sizes) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	// What is no job ends it, and says so.
	bad := good
	bad.Named = 7
	if _, err := k.make(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "job: form 7 of 1") || k.died != 1 {
		t.Errorf("%v, %d died", err, k.died)
	}
}

// One that nobody needs is ended when it has rested.
func TestChildEnds(t *testing.T) {
	s := newSite(t)
	info := s.add("item", nil, random(1, 1000))
	k := &children{command: childCommand, log: slog.New(slog.DiscardHandler)}
	j := testJob(t, t.TempDir(), info.Path.String(), fast[0])
	for range 3 {
		if _, err := k.make(t.Context(), j); err != nil {
			t.Fatal(err)
		}
	}
	if pids := childPIDs(t); len(pids) != 1 {
		t.Errorf("processes %v", pids)
	}
	c := k.idle[0]
	if err := syscall.Kill(c.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "its end", func() bool { // the last of its threads is there until it is waited for
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", c.cmd.Process.Pid)) // the pattern is good
		return err == nil && bytes.Contains(text, []byte(") Z ")) && len(threads) == 1
	})
	if _, err := k.make(t.Context(), j); err != nil || k.died != 0 || k.idle[0] == c {
		t.Errorf("after one that died while it was idle: %v", err)
	}
	c = k.idle[0]
	k.dismiss(c)
	k.dismiss(c) // its time is over once more
	k.ending.Wait()
	if pids := childPIDs(t); len(pids) != 0 || len(k.idle) != 0 {
		t.Errorf("processes %v, %d idle", pids, len(k.idle))
	}
}

// Without a program for it, baking is done here, and the log says so once.
func TestNoChild(t *testing.T) {
	s := newSite(t)
	s.add("a", nil, random(1, 1000))
	s.add("b", nil, random(2, 1000))
	c := s.open(Options{Child: func() *exec.Cmd { return exec.Command(filepath.Join(t.TempDir(), "none")) }, Workers: 1})
	defer s.close(c)
	s.serve(c, func() {
		for _, p := range s.paths {
			if err := c.Bake(p); err != nil {
				t.Error(err)
			}
		}
		await(t, "both items", func() bool { return c.Status().Baked == 2 })
	})
	if n := strings.Count(s.log.String(), "the server's own process"); n != 1 {
		t.Errorf("said %d times:\n%s", n, s.log)
	}
}

// A want that passes, of processes or memory, is not taken for none at all.
func TestChildLater(t *testing.T) {
	s := newSite(t)
	info := s.add("item", nil, random(1, 1000))
	command := func() *exec.Cmd { return exec.Command(filepath.Join(t.TempDir(), "none")) }
	k := &children{command: func() *exec.Cmd { return command() }, log: slog.New(slog.DiscardHandler)}
	defer k.close()
	j := testJob(t, t.TempDir(), info.Path.String(), fast[0])
	if _, err := k.make(t.Context(), j); !errors.Is(err, errNoChild) {
		t.Errorf("without a program: %v", err)
	}
	command = childCommand
	if _, err := k.make(t.Context(), j); err != nil {
		t.Errorf("with one: %v", err)
	}
}

func TestStartDelay(t *testing.T) {
	for died, want := range map[int]time.Duration{0: 0, 1: time.Second, 2: 2 * time.Second, 6: 32 * time.Second, 7: time.Minute, 1 << 40: time.Minute} {
		if got := startDelay(died); got != want {
			t.Errorf("%d: %v, want %v", died, got, want)
		}
	}
}

// FuzzParseJob: what is accepted is written as what reads the same.
func FuzzParseJob(f *testing.F) {
	seed := func(j job) {
		line, err := marshal(j)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line)
	}
	ok := job{Path: "/gnu/store/x", Size: 1000, Forms: []form{{fast[0], 2, "/c/nar"}}, Tree: "/c/tree", Torrent: true}
	seed(ok)
	two := ok
	two.Forms = []form{{compress.Method{Name: "gzip", Level: 9}, 1, "/c/a"}, {compress.None, 4096, "/c/b"}}
	two.Named = 1
	seed(two)
	relative, none := ok, ok
	relative.Path, none.Forms = "x", nil
	odd := ok
	odd.Tree = "/\xff"
	seed(odd)
	seed(relative)
	seed(none)
	f.Add([]byte(`{"Path":"L3g="} {}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		j, err := parseJob(line)
		if err != nil {
			return
		}
		out, err := marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseJob(out); err != nil || fmt.Sprint(again) != fmt.Sprint(j) {
			t.Errorf("%+v, again %+v, %v", j, again, err)
		}
	})
}

// FuzzParseReply is the same for replies to a job of one form.
func FuzzParseReply(f *testing.F) {
	rc, _, err := eris.Encode(bytes.NewReader(nil), eris.Size1KiB, eris.Secret{}, func(eris.Block) error { return nil })
	if err != nil {
		f.Fatal(err)
	}
	ok := made{Sizes: []int64{5}, Cap: rc.Bytes(), Pieces: make([]byte, 40)}
	sizes, bare, torn := ok, ok, ok
	sizes.Sizes, bare.Cap, torn.Pieces = []int64{1, 2}, nil, make([]byte, 5)
	for _, r := range []reply{
		{Made: &ok, CPU: 5}, {Fault: newFault(&fs.PathError{Op: "open", Path: "\xff", Err: syscall.ENOENT})}, {},
		{Made: &sizes}, {Made: &bare}, {Made: &torn}, {Made: &ok, Fault: &fault{}}, {Fault: &fault{Errno: maxErrno + 1}}, {Made: &ok, CPU: -1},
	} {
		line, err := marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseReply(line, 1)
		if err != nil {
			return
		}
		out, err := marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseReply(out, 1)
		if err != nil || (again.Fault == nil) != (r.Fault == nil) || again.CPU != r.CPU {
			t.Fatalf("%s, %v", out, err)
		}
		if r.Fault != nil && *again.Fault != *r.Fault || r.Made != nil && fmt.Sprint(*again.Made) != fmt.Sprint(*r.Made) {
			t.Errorf("%s reads as another reply", out)
		}
	})
}
