package bittorrent_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/bench/netlab"
	"ersatz/internal/transport/bittorrent"
)

// envLocal says what a process of TestLocal does.
const envLocal = "ERSATZ_BITTORRENT_LOCAL"

// localTree is the content of TestLocal.
func localTree(t testing.TB) *tree { return makeTree(t, eris.Size32KiB, 2_000_000) }

// site is two hosts on one network, or a skipped test.
type site struct {
	t    *testing.T
	ctx  context.Context
	a, b *netlab.Host
}

func newSite(t *testing.T) *site {
	t.Helper()
	if err := netlab.Missing(); err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 50*time.Second)
	lab, err := netlab.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &site{t: t, ctx: ctx}
	for name, h := range map[string]**netlab.Host{"a": &s.a, "b": &s.b} {
		if *h, err = lab.Host(ctx, name, netlab.Link{}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// ours starts a process of TestLocalRole in a host; it ends with the test.
func (s *site) ours(h *netlab.Host, role string) *bufio.Scanner {
	s.t.Helper()
	cmd := h.Command(s.ctx, os.Args[0], "-test.run=^TestLocalRole$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), envLocal+"="+role)
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stderr = s.t.Output()
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			s.t.Errorf("%s: %v", role, err)
		}
	})
	return bufio.NewScanner(out)
}

// await waits for a line.
func (s *site) await(lines *bufio.Scanner, want string) {
	s.t.Helper()
	for lines.Scan() {
		if lines.Text() == want {
			return
		}
		s.t.Log(lines.Text())
	}
	s.t.Fatalf("ended without %q", want)
}

// aria2 starts aria2c in a host, which finds peers by local discovery alone.
func (s *site) aria2(h *netlab.Host, dir string, args ...string) *aria2 {
	s.t.Helper()
	program, err := exec.LookPath("aria2c")
	if err != nil {
		s.t.Skip("no aria2c")
	}
	a := &aria2{dir: dir, done: make(chan error, 1)}
	cmd := h.Command(s.ctx, program, append([]string{"--no-conf", "--dir=" + dir, "--enable-dht=false", "--enable-dht6=false",
		"--bt-enable-lpd=true", "--enable-peer-exchange=false", "--listen-port=6999", "--file-allocation=none", "--summary-interval=0"}, args...)...)
	cmd.Stdout, cmd.Stderr = &a.out, &a.out
	cmd.Env = append(os.Environ(), "HOME="+dir)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		a.done <- cmd.Wait()
		close(ended)
	}()
	s.t.Cleanup(func() {
		_ = cmd.Cancel() // it may have ended
		<-ended
		if s.t.Failed() {
			s.t.Logf("aria2c:\n%s", a.out.String())
		}
	})
	return a
}

// listens waits until a host has somebody at a TCP port.
func (s *site) listens(h *netlab.Host, port int) {
	s.t.Helper()
	within(s.t, 20*time.Second, "somebody listens", func() bool {
		conn, err := h.Dial(s.ctx, "tcp", fmt.Sprintf("%s:%d", h.Addr(), port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// TestLocalAria2Downloads has aria2c, which knows nothing but the hash, get a
// content from us, whichever of both comes first.
func TestLocalAria2Downloads(t *testing.T) {
	t.Parallel()
	tr := localTree(t)
	info := tr.info(t)
	link := fmt.Sprintf("magnet:?xt=urn:btih:%x", info.Hash())
	t.Run("before us", func(t *testing.T) {
		t.Parallel()
		s := newSite(t)
		a := s.aria2(s.b, t.TempDir(), "--seed-time=0", link)
		s.listens(s.b, 6999)
		s.await(s.ours(s.a, "seed"), "ready")
		a.wait(t, info.Name, tr.file(t))
	})
	t.Run("after us", func(t *testing.T) {
		t.Parallel()
		s := newSite(t)
		s.await(s.ours(s.a, "seed"), "ready")
		<-time.After(1500 * time.Millisecond) // we have said all that we say
		s.aria2(s.b, t.TempDir(), "--seed-time=0", link).wait(t, info.Name, tr.file(t))
	})
}

// TestLocalAria2Seeds has us get a content from aria2c, whichever of both comes
// first.
func TestLocalAria2Seeds(t *testing.T) {
	t.Parallel()
	tr := localTree(t)
	info := tr.info(t)
	seeds := func(s *site) {
		dir := s.t.TempDir()
		write(s.t, filepath.Join(dir, info.Name), tr.file(s.t))
		write(s.t, filepath.Join(dir, "x.torrent"), info.Metainfo(nil, nil))
		s.aria2(s.b, dir, "--seed-ratio=0", "--check-integrity=true", filepath.Join(dir, "x.torrent"))
	}
	for name, later := range map[string]bool{"before us": false, "after us": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if !later {
				seeds(s)
				s.listens(s.b, 6999)
			}
			lines := s.ours(s.a, "fetch")
			s.await(lines, "asks")
			if later {
				seeds(s)
			}
			s.await(lines, fmt.Sprint("got ", len(tr.refs)))
		})
	}
}

// TestLocalOurs has two of ours find each other, by each family.
func TestLocalOurs(t *testing.T) {
	t.Parallel()
	tr := localTree(t)
	for _, family := range []string{"IPv4", "IPv6"} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if family == "IPv6" {
				s.six(s.a, "fd00:77::1/64")
				s.six(s.b, "fd00:77::2/64")
			}
			s.await(s.ours(s.a, "seed"), "ready")
			s.await(s.ours(s.b, "fetch"), fmt.Sprint("got ", len(tr.refs)))
		})
	}
}

// six gives a host an address of IPv6 instead of that of IPv4.
func (s *site) six(h *netlab.Host, addr string) {
	s.t.Helper()
	for _, args := range []string{"-4 addr flush dev eth0", "-6 addr add " + addr + " dev eth0 nodad"} {
		if out, err := h.Command(s.ctx, "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			s.t.Fatalf("ip %s: %v\n%s", args, err, bytes.TrimSpace(out))
		}
	}
}

// TestLocalMany has us get more contents, one after another, than can be announced
// at once.
func TestLocalMany(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.await(s.ours(s.a, "seed-many"), "ready")
	<-time.After(4 * time.Second) // it has said all that it says for a minute
	s.await(s.ours(s.b, "fetch-many"), fmt.Sprint("got ", manyTrees))
}

const manyTrees = 20

// TestLocalRole is a process of the others. It ends when its input does.
func TestLocalRole(t *testing.T) {
	tr := localTree(t)
	link := magnet(tr.info(t))
	o := bittorrent.Options{Listen: ":6881", LSD: true, Idle: 40 * time.Second}
	switch role := os.Getenv(envLocal); role {
	case "":
		t.Skip("is a part of others")
	case "seed":
		seed(t, tr, link, o)
		fmt.Println("ready")
	case "fetch":
		s := open(t, start(t, o), tr, link)
		fmt.Println("asks")
		wants(t, s, tr, tr.every()...)
		fmt.Println("got", len(tr.refs))
	case "seed-many", "fetch-many":
		c := start(t, o)
		for i := range manyTrees {
			tr := makeTree(t, eris.Size32KiB, int64(400_000+i))
			link := magnet(tr.info(t))
			if role == "seed-many" {
				if err := c.Offer(t.Context(), shared(tr, link), tr.open); err != nil {
					t.Fatal(err)
				}
				continue
			}
			wants(t, open(t, c, tr, link), tr, tr.every()...)
		}
		fmt.Println(map[string]string{"seed-many": "ready", "fetch-many": fmt.Sprint("got ", manyTrees)}[role])
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		t.Error(err)
	}
}
