package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/guixsig"
	"ersatz/nar"
	"ersatz/narinfo"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

// substituter is the program as guix-daemon runs it: requests on
// standard input, replies on descriptor 4.
type substituter struct {
	t       *testing.T
	cmd     *exec.Cmd
	in      io.WriteCloser
	replies *bufio.Reader
	stderr  bytes.Buffer
}

// startSubstituter runs the command for a machine that accepts key and asks
// the server at url.
func startSubstituter(t *testing.T, mode, url string, key *guixsig.PrivateKey) *substituter {
	t.Helper()
	dir := t.TempDir()
	acl := filepath.Join(dir, "acl")
	if err := os.WriteFile(acl, guixsig.ACL{}.Add(key.Public()).Text(), 0o644); err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	s := &substituter{t: t, cmd: exec.CommandContext(t.Context(), "ersatz-substitute", mode), replies: bufio.NewReader(read)}
	s.cmd.ExtraFiles = []*os.File{null, write} // 3 and 4
	s.cmd.Stderr = &s.stderr
	s.cmd.Env = append(os.Environ(), "ERSATZ_CONFIG="+filepath.Join(dir, "config"), "ERSATZ_ACL="+acl,
		"_NIX_OPTIONS=print-extended-build-trace=1\nsubstitute-urls="+url+"\ndeduplicate=no")
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte("state = "+dir+"/state\nlog = info\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	null.Close()
	write.Close()
	t.Cleanup(func() { read.Close() })
	return s
}

// ask sends a request and returns n lines of the reply.
func (s *substituter) ask(request string, n int) string {
	s.t.Helper()
	fmt.Fprintln(s.in, request)
	var reply strings.Builder
	for range n {
		line, err := s.replies.ReadString('\n')
		if err != nil {
			s.t.Fatalf("reply to %q: %q, %v\n%s", request, line, err, &s.stderr)
		}
		reply.WriteString(line)
	}
	return reply.String()
}

// end closes standard input, and wants the process to end well.
func (s *substituter) end() {
	s.t.Helper()
	s.in.Close()
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("%v\n%s", err, &s.stderr)
	}
	if rest, err := io.ReadAll(s.replies); err != nil || len(rest) > 0 {
		s.t.Errorf("more replies: %q, %v", rest, err)
	}
}

func TestSubstituteOverPipes(t *testing.T) {
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(t.TempDir(), "tree")
	if err := os.WriteFile(tree, []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	info, err := nar.Dump(&archive, tree)
	if err != nil {
		t.Fatal(err)
	}
	hash := nixbase32.Encode(info.Hash[:])
	path, err := storepath.Parse("/gnu/store/" + hash[:32] + "-item-1.0")
	if err != nil {
		t.Fatal(err)
	}
	text, err := narinfo.SignGuix(narinfo.Fields{StorePath: path, NarHash: info.Hash, NarSize: uint64(info.Size)}.Body(), key, "test")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, narinfo.Locations([]narinfo.Nar{{URL: "nar/x", Compression: "none", FileSize: uint64(info.Size)}})...)
	mux := http.NewServeMux()
	mux.HandleFunc("/"+path.Hash+".narinfo", func(w http.ResponseWriter, r *http.Request) { w.Write(text) })
	mux.HandleFunc("/nar/x", func(w http.ResponseWriter, r *http.Request) { w.Write(archive.Bytes()) })
	server := httptest.NewServer(mux)
	defer server.Close()

	const absent = "/gnu/store/dddddddddddddddddddddddddddddddd-missing-1"
	q := startSubstituter(t, "--query", server.URL, key)
	size := fmt.Sprintf("%d\n%d\n\n", info.Size, info.Size)
	if got, want := q.ask("info "+absent+" "+path.String()+" ", 6), path.String()+"\n\n0\n"+size; got != want {
		t.Errorf("info: %q, want %q", got, want)
	}
	if got, want := q.ask("have "+absent+" "+path.String(), 2), path.String()+"\n\n"; got != want {
		t.Errorf("have: %q, want %q", got, want)
	}
	q.end()

	dest := filepath.Join(t.TempDir(), path.Base())
	s := startSubstituter(t, "--substitute", server.URL, key)
	if got := s.ask("substitute "+absent+" "+dest, 1); got != "not-found\n" {
		t.Errorf("reply %q", got)
	}
	if got, want := s.ask("substitute "+path.String()+" "+dest, 1), fmt.Sprintf("success sha256:%s %d\n", hash, info.Size); got != want {
		t.Errorf("reply %q, want %q\n%s", got, want, &s.stderr)
	}
	s.end()
	if b, err := os.ReadFile(dest); err != nil || string(b) != "content\n" {
		t.Errorf("installed %q, %v", b, err)
	}
	if !strings.Contains(s.stderr.String(), "@ download-succeeded "+dest+" "+server.URL+"/nar/x ") {
		t.Errorf("no trace:\n%s", &s.stderr)
	}

	// A malformed request ends the process, with the status of wrong usage.
	bad := startSubstituter(t, "--substitute", server.URL, key)
	fmt.Fprintln(bad.in, "instal /gnu/store/x")
	if err := bad.cmd.Wait(); status(t, err) != exitUsage {
		t.Errorf("after a malformed request: %v", err)
	}

	// Without servers, nobody has anything.
	alone := startSubstituter(t, "--query", "", key)
	if got := alone.ask("have "+path.String(), 1) + alone.ask("info "+path.String()+" ", 1); got != "\n\n" {
		t.Errorf("without servers: %q", got)
	}
	alone.end()
}
