package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

const ownNamespace = "/proc/thread-self/ns/net"

// namespace is a network namespace that an open file keeps alive.
type namespace struct{ f *os.File }

func newNamespace() (*namespace, error) {
	n := &namespace{}
	err := away(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		n.f, err = os.Open(ownNamespace)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := n.run(context.Background(), "", "ip", "link", "set", "lo", "up"); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *namespace) close() error { return n.f.Close() }

// path names the namespace for other processes, as long as this one lives.
func (n *namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.f.Fd()) }

// do calls f in a thread that is in the namespace. Sockets that f itself makes
// belong to the namespace for ever; goroutines that it starts do not.
func (n *namespace) do(f func() error) error {
	return away(func() error {
		if err := unix.Setns(int(n.f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
		return f()
	})
}

// away calls f, which may take the thread into another namespace, and takes it
// back: a thread that ended would take along the programs that it has started,
// see command. If there is no way back the thread stays the goroutine's.
func away(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open(ownNamespace)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("setns: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// command returns a command that runs in the namespace. It is killed with its
// children when ctx is done, and when this process ends.
func (n *namespace) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + n.path(), "--", name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}
