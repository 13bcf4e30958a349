package bench

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ersatz/internal/realguix"
)

// TestPeakIsOfTheChild starts a process that has one child.
func TestPeakIsOfTheChild(t *testing.T) {
	// The shell would become its last command.
	cmd := exec.Command("sh", "-c", "cat; exit 0")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err) // once it answers, cat runs
	}
	child, err := onlyChild(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := os.Readlink("/proc/self/exe"); err != nil || child == os.Getpid() || name == "" {
		t.Errorf("child %d, %v", child, err)
	}
	got, err := peakOfChild(cmd.Process.Pid)
	if err != nil || got < 100<<10 || got > 100<<20 {
		t.Errorf("cat has %d bytes, %v", got, err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := onlyChild(cmd.Process.Pid); err == nil {
		t.Error("a process that has ended has a child")
	}
}

func TestCPUAndPeakGrow(t *testing.T) {
	pid := os.Getpid()
	before, err := cpu(pid)
	if err != nil {
		t.Fatal(err)
	}
	peakBefore, err := peak(pid)
	if err != nil {
		t.Fatal(err)
	}
	b := randomBytes(64*mib, 1)
	for range 20 {
		b = randomBytes(len(b), uint64(b[0]))
	}
	after, err := cpu(pid)
	if err != nil || after <= before || after > before+time.Minute {
		t.Errorf("processor time from %v to %v, %v", before, after, err)
	}
	peakAfter, err := peak(pid)
	if err != nil || peakAfter < 64*mib || peakAfter < peakBefore {
		t.Errorf("peak from %d to %d, %v", peakBefore, peakAfter, err)
	}
}

func TestReadReply(t *testing.T) {
	one := func(string) bool { return true }
	if lines, err := readReply(strings.NewReader("success\nmore\n"), one); err != nil || len(lines) != 1 {
		t.Errorf("%q, %v", lines, err)
	}
	if lines, err := readReply(strings.NewReader(""), one); err == nil {
		t.Errorf("a reply from nobody: %q", lines)
	}
}

// TestAsk has programs in a real machine answer as substituters do, or not.
func TestAsk(t *testing.T) {
	root := os.Getenv(realguix.EnvRoot)
	if root == "" || os.Getuid() != 0 {
		t.Skipf("not root, or %s does not name a folder with a Guix", realguix.EnvRoot)
	}
	m, err := realguix.Start(root, realguix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, c := range []struct{ script, reply, fault string }{
		{script: `read a b; echo "$1 $2 $a $b, $_NIX_OPTIONS" >&4; read c`, reply: "substitute --query info /x, name=value"},
		{script: `echo its reason >&2; exit 3`, fault: "its reason"},
		{script: `read a; echo yes >&4; read b; exit 1`, fault: "exit status 1"},
	} {
		if err := m.WriteFile("/usr/local/bin/fake", []byte("#!/bin/sh\n"+c.script+"\n:\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		s := substituter{machine: m, command: []string{"fake", "substitute"}}
		u, lines, err := s.ask(ctx, "--query", "name=value", "info /x\n", func(string) bool { return true })
		switch {
		case c.fault != "":
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%s: %v", c.script, err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.script, err)
		case lines[0] != c.reply || u.wall <= 0 || u.peak < 100<<10 || u.cpu > u.wall*100:
			t.Errorf("%s: %q, %+v", c.script, lines, u)
		}
	}
	// Servers are found with their number.
	if err := m.WriteFile("/usr/local/bin/fake", []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	defer stop()
	if s, err := serve(short, m, "fake"); err == nil {
		s.Stop()
		t.Error("a program that does not listen is a server")
	}
}

// TestStaticServesNarinfos checks what the server of plain nars says.
func TestStaticServesNarinfos(t *testing.T) {
	s := &site{}
	var err error
	if s.key, err = testKey(); err != nil {
		t.Fatal(err)
	}
	i := testItem()
	url, err := s.static(map[string][]byte{i.Path.Name: []byte("nar")}, "zstd", i)
	if err != nil {
		t.Fatal(err)
	}
	client := newClient()
	text, err := fetch(t.Context(), client, url+"/"+i.Path.Hash+".narinfo")
	if err != nil || !strings.Contains(string(text), "\nURL: nar/"+i.Path.Base()+"\nCompression: zstd\nFileSize: 3\n") {
		t.Errorf("%s, %v", text, err)
	}
	nar, err := fetch(t.Context(), client, url+"/nar/"+i.Path.Base())
	if err != nil || string(nar) != "nar" {
		t.Errorf("%q, %v", nar, err)
	}
	if text, err := fetch(t.Context(), client, url+"/other.narinfo"); err != nil || text != nil {
		t.Errorf("%q, %v", text, err)
	}
	client.CloseIdleConnections()
	if err := s.close(); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://")); err == nil {
		c.Close()
		t.Error("it still listens")
	}
}
