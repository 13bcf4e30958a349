package substitute_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ersatz/internal/substitute"
)

// helperVariable makes this test binary a substituter: see helper.
const helperVariable = "ERSATZ_TEST_SUBSTITUTER"

func TestMain(m *testing.M) {
	if settings := os.Getenv(helperVariable); settings != "" {
		helper(settings)
	}
	os.Exit(m.Run())
}

// helperSettings are what a substituter in another process is told.
type helperSettings struct {
	Daemon     substitute.DaemonOptions
	ACL, State string
}

func helper(settings string) {
	var h helperSettings
	err := json.Unmarshal([]byte(settings), &h)
	var s *substitute.Substituter
	if err == nil {
		s, err = substitute.New(h.Daemon, os.Stderr, substitute.Options{ACL: h.ACL, States: []string{h.State}, Discovered: "/nonexistent"})
	}
	if err == nil {
		err = s.Substitute(context.Background(), os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// process returns a command that asks for an item in another process.
func (m *machine) process(it *item) *exec.Cmd {
	settings, err := json.Marshal(helperSettings{m.daemon, m.o.ACL, m.o.States[0]})
	must(m.t, err)
	cmd := exec.CommandContext(m.t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), helperVariable+"="+string(settings))
	cmd.Stdin = strings.NewReader(fmt.Sprintf("substitute %s %s\n", it.path, m.dest(it)))
	return cmd
}

// TestKilled: an item appears complete or not at all, and the next run
// removes what was left.
func TestKilled(t *testing.T) {
	for _, way := range []string{"nar", "blocks"} {
		t.Run(way, func(t *testing.T) {
			it := newItem(t, "big-1.0", tree(t, 4<<20), "zstd:3")
			if way == "nar" {
				it.fields.ERIS, it.fields.ERISFormat = "", ""
			}
			server := newServer(t)
			server.add(t, it, key(t, 1))
			m := newMachine(t, server.URL)
			cmd := m.process(it)
			server.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					panic(http.ErrAbortHandler)
				}
				r.Body = io.NopCloser(bytes.NewReader(body))
				switch file := it.files[it.nars[0].URL]; {
				case isNar(r):
					w.Write(file[:len(file)/2])
					w.(http.Flusher).Flush()
				case bytes.Contains(body, it.last[:]):
				default:
					return false
				}
				// Once the tree has begun, the process is killed.
				if waitFor(r.Context(), m.dest(it)+".chroot/data") {
					cmd.Process.Kill()
				}
				panic(http.ErrAbortHandler)
			})
			out, err := cmd.Output()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL || len(out) > 0 {
				t.Fatalf("process ended with %v, replies %q", err, out)
			}
			if _, err := os.Lstat(m.dest(it)); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("the item is there: %v", err)
			}
			if _, err := os.Lstat(m.dest(it) + ".chroot"); err != nil {
				t.Fatalf("the test came too early: %v", err)
			}
			server.intercept(nil)
			m.wantInstalled(m.substitute(it)[0], it)
		})
	}
}

// waitFor reports whether a file comes to exist before ctx ends.
func waitFor(ctx context.Context, name string) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Lstat(name); err == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C: // another process works at it: no fake clock moves that
		}
	}
}

// TestFullDisk: the message says so, nothing stays, and no other source is
// bothered.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	it := newItem(t, "big-1.0", tree(t, 4<<20), "zstd:3")
	small := newItem(t, "small-1.0", tree(t, 10), "zstd:3")
	server, other := newServer(t), newServer(t)
	for _, s := range []*fakeServer{server, other} {
		s.add(t, it, key(t, 1))
		s.add(t, small, key(t, 1))
	}
	m := newMachine(t, server.URL, other.URL)
	if err := unix.Mount("tmpfs", m.store, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	defer unix.Unmount(m.store, unix.MNT_DETACH)
	replies := m.substitute(it, small)
	if replies[0] != "not-found" {
		t.Errorf("reply %q", replies[0])
	}
	m.wantMessage("no space left")
	if n := server.count("GET /nar/zstd/"+it.path.Base()) + other.count("GET /nar/zstd/"+it.path.Base()); n != 0 {
		t.Errorf("%d nars were asked for after the disk was full", n)
	}
	m.wantInstalled(replies[1], small)
}

func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the other tests run as an ordinary user")
	}
	it := newItem(t, "big-1.0", tree(t, 2<<20), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	const nobody = 65534
	base, err := os.MkdirTemp("", "ersatz-user-*")
	must(t, err)
	defer os.RemoveAll(base)
	m.store, m.o.States = filepath.Join(base, "store"), []string{filepath.Join(base, "state")}
	for _, dir := range []string{m.store, m.o.States[0]} {
		must(t, os.Mkdir(dir, 0o755))
		must(t, os.Chown(dir, nobody, nobody))
	}
	must(t, os.Chmod(base, 0o755))
	program, acl := filepath.Join(base, "substituter"), filepath.Join(base, "acl")
	copyFile(t, os.Args[0], program, 0o755)
	copyFile(t, m.o.ACL, acl, 0o644)
	m.o.ACL = acl
	m.daemon.Deduplicate = true
	must(t, os.Mkdir(m.dest(it)+".chroot", 0o755)) // left by another one, whose it is
	must(t, os.Chown(m.dest(it)+".chroot", nobody, nobody))
	cmd := m.process(it)
	cmd.Path, cmd.Dir = program, base
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	m.wantInstalled(strings.TrimSuffix(string(out), "\n"), it)
	if files, err := filepath.Glob(m.o.States[0] + "/narinfo/*/*"); err != nil || len(files) != 1 {
		t.Errorf("cache has %q, %v", files, err)
	}
}

func copyFile(t *testing.T, from, to string, perm os.FileMode) {
	t.Helper()
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, b, perm))
}
