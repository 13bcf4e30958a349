package netlab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv makes the test program start a program in a network, and wait to be
// killed.
const childEnv = "NETLAB_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

func testLab(t *testing.T) *Lab {
	t.Helper()
	if err := Missing(); err != nil {
		t.Skip(err)
	}
	l, err := New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *Lab) testHost(t *testing.T, name string, link Link) *Host {
	t.Helper()
	h, err := l.Host(t.Context(), name, link)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// sink accepts connections, says so by one byte, and then sends the number of
// bytes that it got until the other side stopped.
func sink(t *testing.T, h *Host) string {
	t.Helper()
	l, err := h.Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if name, err := congestionOf(conn); err != nil || name != congestion {
				t.Errorf("congestion control is %q, %v", name, err)
			}
			_, err = conn.Write([]byte{'!'})
			n, cerr := io.Copy(io.Discard, conn)
			if err == nil && cerr == nil {
				fmt.Fprintln(conn, n)
			}
			conn.Close()
		}
	}()
	return l.Addr().String()
}

// congestionOf returns the name of a connection's congestion control.
func congestionOf(conn net.Conn) (name string, err error) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return "", err
	}
	cerr := raw.Control(func(fd uintptr) {
		name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	})
	return name, errors.Join(err, cerr)
}

// send sends n bytes from a host to a sink, and returns how long connecting
// took and how long the rest.
func send(t *testing.T, h *Host, addr string, n int64) (connecting, sending time.Duration) {
	t.Helper()
	begin := time.Now()
	conn, err := h.Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	connecting = time.Since(begin)
	r := bufio.NewReader(conn)
	if _, err := r.ReadByte(); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	if _, err := io.CopyN(conn, zeros{}, n); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := r.ReadString('\n'); err != nil || got != fmt.Sprintln(n) {
		t.Fatalf("%q of %d bytes have arrived: %v", got, n, err)
	}
	return connecting, time.Since(begin)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestRate checks that a line is no faster than it should be, whichever end
// sends, that it is as fast as it was before once the limit is lifted, and
// that its traffic is counted.
func TestRate(t *testing.T) {
	l := testLab(t)
	slow, fast := l.testHost(t, "slow", Link{Rate: 8 * Mbit}), l.testHost(t, "fast", Link{})
	const n = 1_000_000
	least := 19 * n * 8 / (20 * 8 * Mbit / 1000) * time.Millisecond // headers are on top, the bucket may be full
	before, err := slow.Traffic()
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []struct{ from, to *Host }{{slow, fast}, {fast, slow}} {
		if _, took := send(t, to.from, sink(t, to.to), n); took < least || took > 10*least {
			t.Errorf("%s to %s: %v for %d bytes, should take %v", to.from.Name(), to.to.Name(), took, n, least)
		}
	}
	after, err := slow.Traffic()
	if err != nil {
		t.Fatal(err)
	}
	// Frames have headers, and acknowledgements come the other way.
	if d := after.Since(before); d.Sent < n || d.Sent > n*5/4 || d.Received < n || d.Received > n*5/4 {
		t.Errorf("traffic %+v after %d bytes in each direction", d, n)
	}
	if err := slow.SetLink(t.Context(), Link{}); err != nil {
		t.Fatal(err)
	}
	if _, took := send(t, fast, sink(t, slow), n); took > least {
		t.Errorf("%v without a limit", took)
	}
}

// TestLoss counts datagrams in both directions.
func TestLoss(t *testing.T) {
	l := testLab(t)
	a, b := l.testHost(t, "a", Link{Loss: 20}), l.testHost(t, "b", Link{})
	for _, to := range []struct{ from, to *Host }{{a, b}, {b, a}} {
		if got := datagrams(t, to.from, to.to, 2000); got < 1440 || got > 1760 {
			t.Errorf("%s to %s: %d of 2000 have arrived, not 1600", to.from.Name(), to.to.Name(), got)
		}
	}
	if err := a.SetLink(t.Context(), Link{}); err != nil {
		t.Fatal(err)
	}
	if got := datagrams(t, a, b, 2000); got != 2000 {
		t.Errorf("%d of 2000 have arrived without loss", got)
	}
	if err := a.SetLink(t.Context(), Link{Delay: 1}); err == nil {
		t.Error("a line without delay got one")
	}
}

// datagrams sends n of them and returns how many arrive.
func datagrams(t *testing.T, from, to *Host, n int) int {
	t.Helper()
	var conn net.PacketConn
	err := to.ns.do(func() (err error) {
		conn, err = net.ListenPacket("udp", to.Addr().String()+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	out, err := from.Dial(t.Context(), "udp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	got, buf := 0, make([]byte, 100)
	for range n / 50 { // few at a time, so that no buffer overflows
		for range 50 {
			if _, err := out.Write(buf); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if _, _, err := conn.ReadFrom(buf); err != nil {
				break // the others are lost
			}
			got++
		}
	}
	return got
}

// TestDelay checks that every packet is late, those that open a connection
// too, and that a line with delay has a rate as well.
func TestDelay(t *testing.T) {
	l := testLab(t)
	const delay = 30 * time.Millisecond
	far, near := l.testHost(t, "far", Link{Delay: delay, Rate: 4 * Mbit}), l.testHost(t, "near", Link{})
	addr := sink(t, near)
	send(t, far, addr, 0) // ARP takes a round trip too
	if connecting, rest := send(t, far, addr, 0); connecting < 2*delay || rest < 2*delay || connecting > 10*delay {
		t.Errorf("connecting took %v, one answer %v", connecting, rest)
	}
	if _, took := send(t, near, sink(t, far), 500_000); took < 950*time.Millisecond {
		t.Errorf("500 kB at 4 Mbit/s took %v", took)
	}
}

// TestHosts checks names and addresses, that hosts see each other and are seen
// by nobody else, that programs run in them, and that cables can be pulled.
func TestHosts(t *testing.T) {
	l := testLab(t)
	a, b := l.testHost(t, "a", Link{}), l.testHost(t, "b", Link{})
	if a.Name() != "a" || a.Addr().String() != "10.77.0.1" || b.Addr().String() != "10.77.0.2" {
		t.Errorf("%s %v %v", a.Name(), a.Addr(), b.Addr())
	}
	addr := sink(t, b)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr); err == nil {
		conn.Close()
		t.Error("this machine sees the host")
	}
	out, err := a.Command(t.Context(), "ip", "-br", "addr", "show", "dev", device).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "10.77.0.1/24") {
		t.Errorf("%s, %v", out, err)
	}
	if err := b.SetUp(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if conn, err := a.Dial(short, "tcp", addr); err == nil {
		conn.Close()
		t.Error("connected without a cable")
	}
	if err := b.SetUp(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	send(t, a, addr, 1000)
	if _, err := a.Dial(t.Context(), "tcp", "localhost:1"); err == nil {
		t.Error("a name was looked up")
	}
}

// TestCommandKilled checks that what a program has started ends with it.
func TestCommandKilled(t *testing.T) {
	h := testLab(t).testHost(t, "a", Link{})
	ctx, cancel := context.WithCancel(t.Context())
	cmd := h.Command(ctx, "sh", "-c", "sleep 1000 & echo $!; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := readPid(t, out)
	cancel()
	if err := cmd.Wait(); err == nil {
		t.Error("the program ended well")
	}
	waitGone(t, pid)
}

// TestEndsWithProcess kills a process that has a network, and checks that
// neither it nor what ran there is left.
func TestEndsWithProcess(t *testing.T) {
	if err := Missing(); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	pid, ns := readPid(t, r), readLine(t, r)
	if !slices.Contains(namespaces(t), ns) {
		t.Fatalf("%s is not there while it is used", ns)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	waitGone(t, pid)
	if slices.Contains(namespaces(t), ns) {
		t.Errorf("%s is left", ns)
	}
}

// child is the process that TestEndsWithProcess kills.
func child() int {
	err := func() error {
		l, err := New(context.Background())
		if err != nil {
			return err
		}
		h, err := l.Host(context.Background(), "a", Link{Delay: time.Millisecond})
		if err != nil {
			return err
		}
		cmd := h.Command(context.Background(), "sh", "-c", "echo $$; readlink /proc/self/ns/net; exec sleep 1000")
		cmd.Stdout = os.Stdout
		if err := cmd.Start(); err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, os.Stdin) // until it is killed
		return err
	}()
	fmt.Fprintln(os.Stderr, "child:", err)
	return 1
}

// namespaces returns the network namespaces in which processes run.
func namespaces(t *testing.T) (names []string) {
	t.Helper()
	pids, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range pids {
		if name, err := os.Readlink("/proc/" + e.Name() + "/ns/net"); err == nil {
			names = append(names, name)
		}
	}
	return names
}

func readLine(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func readPid(t *testing.T, r io.Reader) (pid int) {
	t.Helper()
	b, ok := r.(*bufio.Reader)
	if !ok {
		b = bufio.NewReader(r)
	}
	if _, err := fmt.Sscan(readLine(t, b), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// waitGone waits until a process has ended.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) && !isDead(pid) {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("process %d is still there", pid)
		}
	}
}

// isDead reports whether a process has ended and nobody has taken note.
func isDead(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(text), ") Z ")
}
