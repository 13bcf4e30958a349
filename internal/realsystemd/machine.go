// Package realsystemd runs throw-away machines with Debian, a stock Guix and
// systemd as process 1, for tests of what packaging/ has: units in their
// sandboxes, and the Debian package. A machine is the folder of
// internal/realguix under one with systemd, made once by
// scripts/systemd-layer.sh, under an overlay in memory, in namespaces of its
// own; so is its network, of which it has loopback alone.
//
// It needs root, and Linux with overlayfs and cgroup2.
package realsystemd

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// EnvLayer names the folder with systemd.
const EnvLayer = "ERSATZ_SYSTEMD_LAYER"

//go:embed boot.sh
var bootScript string

// Machine is a running machine. It ends with Close, or with the process that
// started it, however that ends.
type Machine struct {
	dir  string // mount point, empty as seen from outside
	init *exec.Cmd
	done chan struct{} // closed when init has ended
	log  output
}

// Boot starts a machine on the folders of scripts/guix-root.sh and
// scripts/systemd-layer.sh, and waits until systemd has started what it starts.
func Boot(ctx context.Context, root, layer string) (*Machine, error) {
	dir, err := os.MkdirTemp("", "realsystemd-")
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir, init: exec.Command("/bin/sh", "-c", bootScript), done: make(chan struct{})}
	m.init.Env = []string{"PATH=" + path, "LOWER=" + layer + ":" + root, "DIR=" + dir}
	m.init.Stdout, m.init.Stderr = &m.log, &m.log
	m.init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET | syscall.CLONE_NEWCGROUP,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := m.init.Start(); err != nil {
		return nil, fmt.Errorf("realsystemd: starting a machine: %w", errors.Join(err, os.Remove(dir)))
	}
	go func() {
		defer close(m.done)
		_ = m.init.Wait() // it is killed in the end
	}()
	if err := m.wait(ctx); err != nil {
		return nil, fmt.Errorf("realsystemd: starting a machine: %w\n%s", errors.Join(err, m.Close()), m.Log())
	}
	return m, nil
}

// wait waits until systemd says that it runs.
func (m *Machine) wait(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := m.Run(ctx, "systemctl", "is-system-running")
		state := strings.TrimSpace(out)
		if state == "running" || state == "degraded" {
			return nil
		}
		select {
		case <-tick.C:
		case <-m.done:
			return errors.New("it has ended")
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// Close ends all that runs in the machine and forgets what it has written.
func (m *Machine) Close() error {
	// Its end is the end of the namespace: the kernel kills the others.
	if err := m.init.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-m.done
	return os.Remove(m.dir)
}

// Log returns what systemd has printed.
func (m *Machine) Log() string { return m.log.String() }

// Path returns where the host sees an absolute path of the machine. Absolute
// links on the way lead into the host.
func (m *Machine) Path(p string) string {
	return filepath.Join("/proc", strconv.Itoa(m.init.Process.Pid), "root") + p
}

const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Run runs a command in the machine as root and returns what it prints, on both
// outputs. The error has the end of that in it. When ctx is done, the command
// is killed; what it has started ends with the machine.
func (m *Machine) Run(ctx context.Context, name string, args ...string) (string, error) {
	pid := strconv.Itoa(m.init.Process.Pid)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", pid, "-m", "-n", "-p", "-u", "-i", "-C", "-r", "-w", "--", name}, args...)...)
	cmd.Env = []string{"PATH=" + path, "HOME=/root", "USER=root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out[max(0, len(out)-4<<10):])
	}
	return string(out), err
}

// WriteFile writes a file of the machine, with the folders above it.
func (m *Machine) WriteFile(name string, text []byte, perm os.FileMode) error {
	name = m.Path(name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, text, perm)
}

// output collects what a program prints, for readers meanwhile.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
