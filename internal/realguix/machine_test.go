package realguix

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMachineLeavesNothing checks that what a machine mounts, runs and writes
// is gone with it, and that the folder it is made from stays as it was.
func TestMachineLeavesNothing(t *testing.T) {
	w := start(t)
	sleeper := w.Command(w.ctx, "sleep", "1000")
	w.check(sleeper.Start())
	w.check(w.WriteFile("/usr/local/bin/new", []byte("new"), 0o755))
	w.check(w.WriteFile("/etc/passwd", nil, 0o644))
	dir := w.dir
	if mounts, err := os.ReadFile("/proc/mounts"); err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("the host sees the machine's mounts: %v", err)
	}
	w.check(w.input.Close()) // as at the death of this process
	var exit interface{ Sys() any }
	if err := sleeper.Wait(); !errors.As(err, &exit) {
		t.Errorf("the program in the machine lives on: %v", err)
	}
	lower := os.Getenv(EnvRoot)
	if _, err := os.Stat(lower + "/usr/local/bin/new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("written into %s: %v", lower, err)
	}
	if fi, err := os.Stat(lower + "/etc/passwd"); err != nil || fi.Size() == 0 {
		t.Errorf("%s/etc/passwd was changed: %v", lower, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%s has %v, %v", dir, entries, err)
	}
}

// TestMachineNet checks that all of a machine is in the network namespace that
// its options name.
func TestMachineNet(t *testing.T) {
	w := start(t)
	holder := exec.Command("unshare", "-n", "sh", "-c", "readlink /proc/self/ns/net; exec cat")
	out, err := holder.StdoutPipe()
	w.check(err)
	in, err := holder.StdinPipe()
	w.check(err)
	w.check(holder.Start())
	defer func() { in.Close(); w.check(holder.Wait()) }()
	ns, err := bufio.NewReader(out).ReadString('\n')
	w.check(err)
	m, err := Start(os.Getenv(EnvRoot), Options{Net: fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)})
	w.check(err)
	defer func() { w.check(m.Close()) }()
	for _, process := range []string{"1", "self"} {
		got, err := m.Run(w.ctx, "readlink", "/proc/"+process+"/ns/net")
		if err != nil || got != ns {
			t.Errorf("process %s is in %q, not %q: %v", process, got, ns, err)
		}
	}
}

func TestCommandIsKilledWithItsChildren(t *testing.T) {
	w := start(t)
	ctx, cancel := context.WithCancel(w.ctx)
	cmd := w.Command(ctx, "sh", "-c", "sleep 1001 & echo started; wait")
	var out output
	cmd.Stdout = &out // read until the last child has closed it
	w.check(cmd.Start())
	w.until("a child runs", func() bool {
		pids, err := w.Processes("sleep 1001")
		return err == nil && len(pids) > 0 && out.String() != ""
	})
	cancel()
	if err := cmd.Wait(); err == nil {
		t.Error("it ended by itself")
	}
	w.until("no child runs", func() bool {
		pids, err := w.Processes("sleep 1001")
		return err == nil && len(pids) == 0
	})
	w.until("the dead are gone", func() bool {
		stats, err := filepath.Glob(w.Path("/proc/[0-9]*/stat"))
		w.check(err)
		for _, name := range stats {
			if text, err := os.ReadFile(name); err == nil && strings.Contains(string(text), ") Z ") {
				return false
			}
		}
		return true
	})
}

func TestStartSaysWhatIsMissing(t *testing.T) {
	_, err := Start(t.TempDir(), Options{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder without Guix: %v", err)
	}
}

// TestUnprivilegedDaemon checks who owns what, and that the other kind of
// daemon can take the store over.
func TestUnprivilegedDaemon(t *testing.T) {
	w := start(t)
	i := makeItems(t)
	w.daemon(DaemonOptions{Unprivileged: true})
	w.check(w.Import(w.ctx, w.key, i.dep))
	uid := w.uid("guix-daemon")
	if uid == 0 {
		t.Fatal("guix-daemon is root")
	}
	w.wantInstalled(i.dep, uid)
	fi, err := os.Stat(w.Path("/gnu/store"))
	w.check(err)
	if got := fi.Sys().(*syscall.Stat_t).Uid; got != uid {
		t.Errorf("the store belongs to %d, not to guix-daemon, %d", got, uid)
	}
}
