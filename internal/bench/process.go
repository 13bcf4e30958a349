package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ersatz/internal/realguix"
)

// usage is what a piece of work took.
type usage struct {
	wall, cpu time.Duration
	peak      int64   // of resident memory, bytes
	rate      float64 // per second, where a program says it
}

// usages are the figures of a work that was done several times.
type usages struct{ wall, cpu, peak, rate series }

func (u *usages) add(x usage) {
	u.wall = append(u.wall, x.wall.Seconds())
	u.cpu = append(u.cpu, x.cpu.Seconds())
	u.peak = append(u.peak, float64(x.peak))
	u.rate = append(u.rate, x.rate)
}

// substituter is a program that guix-daemon can start, in a machine.
type substituter struct {
	machine *realguix.Machine
	name    string   // "ersatz" or "guix"
	command []string // without the mode
	env     []string // beside _NIX_OPTIONS
}

// ask starts the program as guix-daemon does, with pipes as its input and as
// descriptor 4, sends it one request and reads its reply, up to the line that
// last says is the last. wall is the time from the start of the process to
// that line; cpu is the process's whole life.
func (s substituter) ask(ctx context.Context, mode, options, request string, last func(line string) bool) (usage, []string, error) {
	cmd := s.machine.Command(ctx, s.command[0], append(s.command[1:len(s.command):len(s.command)], mode)...)
	cmd.Env = append(append(cmd.Env, s.env...), "_NIX_OPTIONS="+options)
	var messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &messages, &messages
	in, err := cmd.StdinPipe()
	if err != nil {
		return usage{}, nil, err
	}
	replies, fd4, err := os.Pipe()
	if err != nil {
		return usage{}, nil, err
	}
	defer replies.Close()
	cmd.ExtraFiles = []*os.File{nil, fd4} // 3 and 4
	begin := time.Now()
	err = cmd.Start()
	fd4.Close()
	if err != nil {
		return usage{}, nil, err
	}
	var u usage
	_, err = io.WriteString(in, request)
	var lines []string
	if err == nil {
		lines, err = readReply(replies, last)
	}
	u.wall = time.Since(begin)
	if err == nil {
		u.peak, err = peakOfChild(cmd.Process.Pid)
	}
	in.Close()
	if werr := cmd.Wait(); werr != nil && err == nil {
		err = werr
	}
	if err != nil {
		b := messages.Bytes()
		return usage{}, nil, fmt.Errorf("%s %s: %w\n%s", strings.Join(s.command, " "), mode, err, b[max(0, len(b)-2000):])
	}
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return u, lines, nil
}

func readReply(r io.Reader, last func(string) bool) ([]string, error) {
	sc := bufio.NewScanner(r)
	var lines []string
	for sc.Scan() {
		lines = append(lines, sc.Text())
		if last(sc.Text()) {
			return lines, nil
		}
	}
	return nil, errors.Join(errors.New("no reply"), sc.Err())
}

// peakOfChild returns the greatest resident memory so far of the one child of
// a process: what runs in a machine is a child of the process that entered it.
func peakOfChild(pid int) (int64, error) {
	child, err := onlyChild(pid)
	if err != nil {
		return 0, err
	}
	return peak(child)
}

// onlyChild returns the one child of a process.
func onlyChild(pid int) (int, error) {
	parent := strconv.Itoa(pid)
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	var found []int
	for _, name := range stats {
		f, err := statFields(name)
		if err == nil && f[1] == parent {
			child, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			if err != nil {
				return 0, err
			}
			found = append(found, child)
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("process %d has children %v, not one", pid, found)
	}
	return found[0], nil
}

// statFields returns the fields of a stat file from the state on: the second
// is the parent (proc_pid_stat(5), fields 3 and 4).
func statFields(name string) ([]string, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	_, rest, ok := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 15 {
		return nil, fmt.Errorf("%s: %q", name, text)
	}
	return f, nil
}

// peak returns the greatest resident memory that a process has had so far.
func peak(pid int) (int64, error) {
	return peakAt(fmt.Sprintf("/proc/%d/status", pid))
}

// peakAt is peak for a file proc_pid_status(5).
func peakAt(status string) (int64, error) {
	kib, err := statusField(status, "VmHWM:")
	return kib << 10, err
}

// statusField returns the number in the line of a file of /proc that begins
// with a name.
func statusField(file, name string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			return strconv.ParseInt(strings.Fields(value)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}

// ticks is how many clock ticks /proc counts per second (proc_pid_stat(5)); it
// is 100 on all Linux machines that Go runs on.
const ticks = 100

// cpu returns the processor time that a process has used so far, all its
// threads together, with that of the children that it has waited for.
func cpu(pid int) (time.Duration, error) { return cpuAt(fmt.Sprintf("/proc/%d/stat", pid)) }

// cpuAt is cpu for a file proc_pid_stat(5).
func cpuAt(stat string) (time.Duration, error) {
	f, err := statFields(stat)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, field := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * time.Second / ticks
	}
	return sum, nil
}

// server is a publish server in a machine.
type server struct {
	addr string
	*realguix.Server
	pid    int // as the host has it
	client *http.Client
}

// serve starts a server in a machine and waits until it listens.
func serve(ctx context.Context, m *realguix.Machine, program string, args ...string) (*server, error) {
	addr, err := realguix.FreeAddr()
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(addr, ":")
	args = append([]string{"publish", "--listen=127.0.0.1", "--port=" + port}, args...)
	var cmd *exec.Cmd
	s, err := realguix.Serve(ctx, addr, func(ctx context.Context) *exec.Cmd {
		cmd = m.Command(ctx, program, args...)
		return cmd
	})
	if err != nil {
		return nil, err
	}
	pid, err := onlyChild(cmd.Process.Pid)
	if err != nil {
		s.Stop()
		return nil, err
	}
	return &server{addr, s, pid, newClient()}, nil
}
