package realguix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// DaemonOptions of a guix-daemon. The zero value is a daemon that runs as
// root and has no substitute servers.
type DaemonOptions struct {
	// URLs are the substitute servers.
	URLs []string

	// Env has further variables, as NAME=VALUE.
	Env []string

	// Unprivileged runs the daemon as the user guix-daemon, who then owns
	// the store, as Debian's unit does.
	Unprivileged bool
}

// Daemon is a running guix-daemon.
type Daemon struct {
	machine *Machine
	cancel  context.CancelFunc
	done    chan struct{}
	out     output
}

const daemonSocket = "/var/guix/daemon-socket/socket"

// StartDaemon starts a guix-daemon and waits until it listens. Only one runs
// at a time.
func (m *Machine) StartDaemon(ctx context.Context, o DaemonOptions) (*Daemon, error) {
	if err := os.RemoveAll(m.Path(daemonSocket)); err != nil {
		return nil, err
	}
	args := []string{"--discover=no", "--substitute-urls=" + strings.Join(o.URLs, " ")}
	var err error
	if o.Unprivileged {
		err = m.chownStore("guix-daemon", "guix-daemon", "0755")
		args = append([]string{"setpriv", "--reuid=guix-daemon", "--regid=guix-daemon", "--init-groups",
			"--inh-caps=-all,+chown", "--ambient-caps=+chown", "guix-daemon"}, args...)
	} else {
		err = m.chownStore("root", "_guixbuild", "1775")
		args = append([]string{"guix-daemon", "--build-users-group=_guixbuild", "--disable-chroot"}, args...)
	}
	if err != nil {
		return nil, err
	}
	// The daemon ends with Stop or with the machine, not with ctx: its log is
	// wanted when a test has run out of time.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cmd := m.Command(own, args[0], args[1:]...)
	cmd.Env = append(cmd.Env, o.Env...)
	d := &Daemon{machine: m, cancel: cancel, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &d.out, &d.out
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(d.done)
		_ = cmd.Wait() // it is killed in the end
	}()
	if err := d.wait(ctx); err != nil {
		d.Stop()
		return nil, fmt.Errorf("realguix: guix-daemon: %w\n%s", err, d.Log())
	}
	return d, nil
}

// wait waits until the daemon accepts connections.
func (d *Daemon) wait(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("unix", d.machine.Path(daemonSocket))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-tick.C:
		case <-d.done:
			return errors.New("ended at once")
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// Stop kills the daemon with its children, and waits for that.
func (d *Daemon) Stop() {
	d.cancel()
	<-d.done
}

// Log returns what the daemon has printed.
func (d *Daemon) Log() string { return d.out.String() }

// chownStore gives the store, and the state of the daemon and of ersatz, to a
// user.
func (m *Machine) chownStore(user, group, mode string) error {
	// -h: store items hold links to anywhere.
	_, err := m.Run(context.Background(), "sh", "-ec", `
		mkdir -p /gnu/store /var/guix /var/log/guix /var/lib/ersatz
		chown -Rh "$1:$2" /gnu/store /var/guix /var/log/guix /var/lib/ersatz
		chmod "$3" /gnu/store`, "sh", user, group, mode)
	return err
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

// Server is a program that listens, such as guix publish.
type Server struct {
	URL    string
	cancel context.CancelFunc
	done   chan struct{}
	out    output
}

// Serve starts a program that listens on addr, "127.0.0.1:PORT", and waits
// until it does.
func Serve(ctx context.Context, addr string, command func(context.Context) *exec.Cmd) (*Server, error) {
	return ServeAt(ctx, addr, (&net.Dialer{}).DialContext, command)
}

// ServeAt is Serve in a network of its own, where dial connects.
func ServeAt(ctx context.Context, addr string, dial func(ctx context.Context, network, addr string) (net.Conn, error), command func(context.Context) *exec.Cmd) (*Server, error) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cmd := command(own)
	s := &Server{URL: "http://" + addr, cancel: cancel, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &s.out, &s.out
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(s.done)
		_ = cmd.Wait() // it is killed in the end
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := dial(ctx, "tcp", addr)
		if err == nil {
			return s, conn.Close()
		}
		select {
		case <-tick.C:
			continue
		case <-s.done:
			err = errors.New("ended at once")
		case <-ctx.Done():
			err = ctx.Err()
		}
		s.Stop()
		return nil, fmt.Errorf("realguix: %s: %w\n%s", strings.Join(cmd.Args, " "), err, s.Log())
	}
}

// Stop kills the server with its children, and waits for that.
func (s *Server) Stop() {
	s.cancel()
	<-s.done
}

// Log returns what the server has printed.
func (s *Server) Log() string { return s.out.String() }

// FreeAddr returns an address of loopback on which nothing listens. Something
// could by the time that it is used.
func FreeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
