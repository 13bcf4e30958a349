// Package realguix runs throw-away machines with a real, stock Guix, for tests
// and measurements. A machine is a folder with Debian and Guix, made once by
// scripts/guix-root.sh and never written to, under an overlay in memory, in
// namespaces of its own for processes and mounts. Its network is the host's,
// unless Options say otherwise: servers on loopback are seen from both sides.
//
// It needs root, and Linux with overlayfs.
package realguix

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// EnvRoot names the folder with Debian and Guix.
const EnvRoot = "ERSATZ_GUIX_ROOT"

//go:embed init.sh
var initScript string

// Options of a machine. The zero value is ready to use.
type Options struct {
	// Gnu is an existing folder of the host that becomes /gnu. Default: one
	// in memory.
	Gnu string

	// Net is a file that is the network namespace of the machine, as ip-netns
	// and internal/bench/netlab have them. Default: the host's.
	Net string
}

// Machine is a running machine. It ends with Close, or with the process that
// started it, however that ends.
type Machine struct {
	dir    string // mount point, empty as seen from outside
	init   *exec.Cmd
	input  io.Closer // init ends when this is closed
	stderr bytes.Buffer
}

// Start starts a machine on the folder that scripts/guix-root.sh has made.
func Start(root string, o Options) (*Machine, error) {
	if _, err := os.Stat(filepath.Join(root, "usr/bin/guix-daemon")); err != nil {
		return nil, fmt.Errorf("realguix: no Guix in %s: %w", root, err)
	}
	dir, err := os.MkdirTemp("", "realguix-")
	if err != nil {
		return nil, err
	}
	args := []string{"/bin/sh", "-c", initScript}
	if o.Net != "" {
		args = append([]string{"nsenter", "--net=" + o.Net, "--"}, args...)
	}
	m := &Machine{dir: dir, init: exec.Command(args[0], args[1:]...)}
	m.init.Env = []string{"PATH=" + path, "LOWER=" + root, "DIR=" + dir, "GNU=" + o.Gnu}
	m.init.Stderr = &m.stderr
	m.init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	if err := m.start(); err != nil {
		return nil, fmt.Errorf("realguix: starting a machine: %w", errors.Join(err, m.Close()))
	}
	return m, nil
}

func (m *Machine) start() error {
	in, err := m.init.StdinPipe()
	if err != nil {
		return err
	}
	m.input = in
	out, err := m.init.StdoutPipe()
	if err != nil {
		return err
	}
	if err := m.init.Start(); err != nil {
		return err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(m.stderr.Bytes()))
	}
	return m.chownStore("root", "_guixbuild", "1775")
}

// Close ends all that runs in the machine, unmounts what it has mounted and
// forgets what it has written.
func (m *Machine) Close() error {
	if m.init.Process != nil {
		m.input.Close()
		// Its end is the end of the namespace: the kernel kills the others.
		if err := m.init.Wait(); err != nil {
			_ = m.init.Process.Kill() // it has ended
		}
	}
	return os.Remove(m.dir)
}

// Path returns where the host sees an absolute path of the machine. Absolute
// links on the way lead into the host.
func (m *Machine) Path(p string) string {
	return filepath.Join("/proc", strconv.Itoa(m.init.Process.Pid), "root") + p
}

const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Command returns a command that runs in the machine, as root, with an
// environment of its own. When ctx is done it is killed with all its children.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	pid := strconv.Itoa(m.init.Process.Pid)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", pid, "-m", "-n", "-p", "-r", "-w", "--", name}, args...)...)
	cmd.Env = []string{"PATH=" + path, "HOME=/root", "USER=root", "LC_ALL=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killWithin(cmd.Process.Pid) }
	return cmd
}

// killWithin kills the process group of nsenter, which ends when it has seen
// its child end. If nsenter were killed too, the child would be left to
// process 1 of the host, and a dead process to the machine if that one does
// not look after orphans.
func killWithin(nsenter int) error {
	killed := false
	for range 1000 { // until none is left that could fork
		members, err := groupMembers(nsenter)
		if err != nil {
			return err
		}
		if len(members) == 0 {
			break
		}
		killed = true
		for _, pid := range members {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
	}
	if killed {
		return nil
	}
	return syscall.Kill(-nsenter, syscall.SIGKILL) // it has no child yet
}

// groupMembers returns the processes of a group that are alive, but for its
// leader.
func groupMembers(group int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var members []int
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended meanwhile
		}
		// Fields 3 and 5 of proc_pid_stat(5) are state and group.
		_, rest, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(rest)
		if len(f) < 3 || f[0] == "Z" || f[0] == "X" || f[2] != strconv.Itoa(group) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			return nil, err
		}
		if pid != group {
			members = append(members, pid)
		}
	}
	return members, nil
}

// Run runs a command in the machine and returns what it prints, on both
// outputs. The error has the end of that in it.
func (m *Machine) Run(ctx context.Context, name string, args ...string) (string, error) {
	return run(m.Command(ctx, name, args...))
}

func run(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, tail(out))
	}
	return string(out), err
}

// tail bounds what an error repeats of a program's output.
func tail(b []byte) []byte { return b[max(0, len(b)-4<<10):] }

// WriteFile writes a file of the machine, with the folders above it.
func (m *Machine) WriteFile(name string, text []byte, perm os.FileMode) error {
	name = m.Path(name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(name); err != nil {
		return err
	}
	return os.WriteFile(name, text, perm)
}

// CopyFile copies a program of the host into the machine.
func (m *Machine) CopyFile(from, to string, perm os.FileMode) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return m.WriteFile(to, text, perm)
}

// Processes returns the numbers, within the machine, of the processes whose
// command line contains text.
func (m *Machine) Processes(text string) ([]int, error) {
	entries, err := os.ReadDir(m.Path("/proc"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(m.Path(filepath.Join("/proc", e.Name(), "cmdline")))
		if err != nil {
			continue // it has ended meanwhile
		}
		line = bytes.ReplaceAll(bytes.TrimRight(line, "\x00"), []byte{0}, []byte{' '})
		if bytes.Contains(line, []byte(text)) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Signal sends a signal, such as "KILL", to processes of the machine.
func (m *Machine) Signal(ctx context.Context, signal string, pids ...int) error {
	args := []string{"-c", "kill -" + signal + ` "$@"`, "sh"}
	for _, pid := range pids {
		args = append(args, strconv.Itoa(pid))
	}
	_, err := m.Run(ctx, "sh", args...)
	return err
}
