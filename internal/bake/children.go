package bake

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// restFor is how long a process waits for another job before it is ended, so
	// that the system has its memory back.
	restFor = 5 * time.Second

	// maxComplaint bounds what is kept of the stderr of a process, in bytes.
	maxComplaint = 2 << 10
)

// errNoChild means that no process can be started, and none ever was.
var errNoChild = errors.New("no process to bake in")

// children are the processes that bake for a cache, one for each worker that has
// something to do. It is safe for concurrent use.
type children struct {
	command func() *exec.Cmd
	log     *slog.Logger

	mu      sync.Mutex
	idle    []*child // the last was at work last
	started bool     // one was
	warned  bool     // that answers may be late
	died    int      // at work, since a job was done
	cpu     time.Duration
	said    string         // what one that was ended has said last
	ending  sync.WaitGroup // of those that are to end
}

// child is a process.
type child struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	said complaint
	rest *time.Timer // ends it; nil until it was idle
	high error       // why it does not have the lowest priority, or nil
}

// make has a process do a job. When ctx ends it is killed: it holds nothing. The
// error matches errNoChild if it is to be done in this process instead.
func (k *children) make(ctx context.Context, j job) (made, error) {
	c, err := k.take(ctx)
	if err != nil {
		return made{}, err
	}
	a, err := c.ask(ctx, j)
	if errors.Is(err, syscall.EPIPE) && c.rest != nil && ctx.Err() == nil { // it died while it was idle
		k.end(c)
		return k.make(ctx, j)
	}
	if err != nil {
		err = c.why(ctx, err)
		k.mu.Lock()
		k.died++
		k.mu.Unlock()
		return made{}, err
	}
	k.give(c, a)
	if a.Fault != nil {
		return made{}, a.Fault
	}
	return *a.Made, nil
}

// take returns a process that is idle, or a new one. If those before have died at
// their work, it waits longer each time: then there may be no memory.
func (k *children) take(ctx context.Context) (*child, error) {
	k.mu.Lock()
	if n := len(k.idle); n > 0 {
		c := k.idle[n-1]
		k.idle = k.idle[:n-1]
		k.mu.Unlock()
		c.rest.Stop() // too late, it finds nothing to do
		return c, nil
	}
	wait := startDelay(k.died)
	k.mu.Unlock()
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c, err := start(k.command())
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err == nil:
		if c.high != nil && !k.warned {
			k.warned = true
			k.log.WarnContext(ctx, "baking, but not at the lowest priority: answers may be late meanwhile", slog.Any("error", c.high))
		}
		k.started = true
		return c, nil
	case k.started:
		k.died++
		return nil, fmt.Errorf("starting a process to bake in: %w", err)
	case !k.warned:
		k.warned = true
		k.log.WarnContext(ctx, "baking in the server's own process: answers may be late meanwhile", slog.Any("error", err))
	}
	return nil, errNoChild
}

// startDelay returns how long to wait before a process is started after so many
// have died.
func startDelay(died int) time.Duration {
	if died == 0 {
		return 0
	}
	return min(time.Second<<min(died-1, 10), time.Minute)
}

// give takes back a process that has answered.
func (k *children) give(c *child, a reply) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.died = 0
	k.cpu += a.CPU
	k.idle = append(k.idle, c)
	c.rest = time.AfterFunc(restFor, func() { k.dismiss(c) })
}

// dismiss ends a process that is idle.
func (k *children) dismiss(c *child) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i := slices.Index(k.idle, c); i >= 0 {
		k.idle = slices.Delete(k.idle, i, i+1)
		k.ending.Go(func() { k.end(c) })
	}
}

// close ends all, and waits for them. None is at work, and none will be.
func (k *children) close() {
	k.mu.Lock()
	for _, c := range k.idle {
		c.rest.Stop()
		k.ending.Go(func() { k.end(c) })
	}
	k.idle = nil
	k.mu.Unlock()
	k.ending.Wait()
}

// end ends a process that is idle, and logs what it has said, unless that was said
// before.
func (k *children) end(c *child) {
	c.kill()
	_ = c.in.Close()
	_ = c.cmd.Wait() // it was killed
	text := strings.TrimSpace(c.said.String())
	k.mu.Lock()
	defer k.mu.Unlock()
	if text != "" && text != k.said {
		k.said = text
		k.log.Warn("a process that bakes", slog.String("said", text))
	}
}

// used returns the processor time that processes have had for what they answered.
func (k *children) used() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cpu
}

// start starts a process of the lowest priority, which no signal of a terminal
// reaches.
func start(cmd *exec.Cmd) (c *child, err error) {
	c = &child{cmd: cmd}
	cmd.Stderr = &c.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, c.in.Close())
	}
	c.out = bufio.NewScanner(out)
	c.out.Buffer(nil, maxAnswer+1)
	if err := cmd.Start(); err != nil { // it closes the pipes
		return nil, err
	}
	c.high = lower(cmd.Process.Pid)
	return c, nil
}

// ask has the process do a job. After an error it is of no more use.
func (c *child) ask(ctx context.Context, j job) (reply, error) {
	stop := context.AfterFunc(ctx, c.kill)
	defer stop()
	line, err := marshal(j)
	if err != nil {
		return reply{}, err
	}
	if _, err := c.in.Write(line); err != nil {
		return reply{}, err
	}
	if !c.out.Scan() {
		return reply{}, cmp.Or(c.out.Err(), io.ErrUnexpectedEOF)
	}
	return parseReply(c.out.Bytes(), len(j.Forms))
}

func (c *child) kill() { _ = c.cmd.Process.Kill() } // it may have ended

// why ends a process that was asked in vain, and says why that was so.
func (c *child) why(ctx context.Context, asked error) error {
	stop := context.AfterFunc(ctx, c.kill)
	defer stop()
	_ = c.in.Close() // it ends by itself, if it has not
	err := c.cmd.Wait()
	if err == nil {
		err = asked
	}
	var exit *exec.ExitError
	hint := ""
	if errors.As(err, &exit) && ctx.Err() == nil {
		if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signal() == syscall.SIGKILL {
			hint = ", as the kernel does for want of memory"
		}
	}
	if text := strings.TrimSpace(c.said.String()); text != "" {
		hint += ": " + text
	}
	return fmt.Errorf("the process that was to compress it has ended: %w%s", err, hint)
}

// complaint keeps the first maxComplaint bytes that are written.
type complaint struct{ b bytes.Buffer }

func (c *complaint) Write(p []byte) (int, error) {
	c.b.Write(p[:min(len(p), maxComplaint-c.b.Len())]) // the error is nil
	return len(p), nil
}

func (c *complaint) String() string { return c.b.String() }
