package realguix

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"ersatz/internal/transport/ipfs/kubotest"
)

// buildErsatz builds the programs once for all tests, and returns their folder.
var buildErsatz = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "realguix-bin-")
	if err != nil {
		return "", err
	}
	_, err = run(exec.Command("go", "build", "-tags", "netgo,osusergo,disable_libutp,nosqlite,noboltdb", "-o", dir, "ersatz/cmd/..."))
	return dir, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv(EnvRoot) != "" { // else no test has built it
		if dir, err := buildErsatz(); err == nil {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

const (
	programPath    = "/usr/local/bin/ersatz"
	substitutePath = "/usr/local/bin/ersatz-substitute"
	wrapperPath    = "/usr/local/bin/ersatz-guix"
)

// withErsatz starts a machine that has both programs and the wrapper.
func withErsatz(t *testing.T) *world {
	t.Helper()
	w := start(t)
	dir, err := buildErsatz()
	w.check(err)
	for _, program := range []string{programPath, substitutePath} {
		w.check(w.CopyFile(filepath.Join(dir, filepath.Base(program)), program, 0o755))
	}
	w.check(w.CopyFile("../../packaging/ersatz-guix", wrapperPath, 0o755))
	return w
}

// wrapped returns the options of a daemon that asks ersatz for substitutes.
func wrapped(unprivileged bool, env ...string) DaemonOptions {
	return DaemonOptions{Unprivileged: unprivileged, Env: append([]string{"GUIX=" + wrapperPath}, env...)}
}

// publish runs ersatz publish with a cache, and waits until it has baked the
// items.
func (w *world) publish(compression string, items ...Item) (addr string) {
	w.t.Helper()
	addr = w.addr()
	w.serve(addr, "ersatz", "--cache=/var/cache/ersatz", "--compression="+compression)
	text := w.baked(addr, items...)
	if !strings.Contains(text, "\nERIS: urn:eris:") {
		w.t.Errorf("narinfo without URN:\n%s", text)
	}
	return addr
}

// build asks for an item from servers, and returns what guix build says.
func (w *world) build(item Item, servers ...string) string {
	w.t.Helper()
	out, err := w.Run(w.ctx, "guix", "build", "--substitute-urls="+strings.Join(servers, " "), item.Path.String())
	if err != nil {
		w.t.Log(out)
	}
	return out
}

// remove deletes an item, and what is remembered of servers' answers.
func (w *world) remove(item Item) {
	w.t.Helper()
	w.check(w.Delete(w.ctx, item.Path))
	w.check(w.ForgetNarinfos())
	w.wantAbsent(item)
}

// wantFrom checks what an item was downloaded from.
func (w *world) wantFrom(out, source string) {
	w.t.Helper()
	if !strings.Contains(out, "downloading from "+source) {
		w.t.Errorf("nothing was downloaded from %s…: %q", source, out)
	}
}

// TestBlocksOverHTTP brings deleted items back from blocks, under both kinds
// of daemon.
func TestBlocksOverHTTP(t *testing.T) {
	for name, unprivileged := range map[string]bool{"root": false, "unprivileged": true} {
		t.Run(name, func(t *testing.T) {
			w, i := withErsatz(t), makeItems(t)
			w.daemon(wrapped(unprivileged))
			w.check(w.Import(w.ctx, w.key, i.all()...))
			addr := w.publish("zstd:3", i.all()...)
			p := newProxy(t, "http://"+addr, func(res *http.Response) bool { return isNar(res) })
			owner := uint32(0)
			if unprivileged {
				owner = w.uid("guix-daemon")
			}
			for _, item := range []Item{i.many, i.big} {
				w.remove(item)
				w.wantFrom(w.build(item, p.URL), "urn:eris:")
				w.wantInstalled(item, owner)
				w.wantDeduplicated(item)
			}
		})
	}
}

// wantDeduplicated checks that the large files of an item are links into
// .links, each to the one with its content.
func (w *world) wantDeduplicated(item Item) {
	w.t.Helper()
	links := map[uint64]bool{}
	entries, err := os.ReadDir(w.Path("/gnu/store/.links"))
	w.check(err)
	inode := func(fi os.FileInfo) uint64 { return fi.Sys().(*syscall.Stat_t).Ino }
	for _, e := range entries {
		fi, err := e.Info()
		w.check(err)
		links[inode(fi)] = true
	}
	seen := 0
	w.check(filepath.Walk(w.Path(item.Path.String()), func(name string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() && fi.Size() >= 8192 {
			seen++
			if !links[inode(fi)] {
				w.t.Errorf("%s is not in .links", name)
			}
		}
		return err
	}))
	if seen == 0 {
		w.t.Errorf("%s has no large file", item.Path)
	}
}

// TestKuboAlone brings items back from the local IPFS daemon; HTTP has only
// the narinfos.
func TestKuboAlone(t *testing.T) {
	w, i := withErsatz(t), makeItems(t)
	kubo := kubotest.Start(t)
	w.daemon(wrapped(true, "ERSATZ_IPFS="+kubo.API))
	w.check(w.Import(w.ctx, w.key, i.all()...))
	pins := func() int { return len(strings.Fields(kubo.Run(t, "pin", "ls", "--type=recursive", "--quiet"))) }
	before := pins()
	addr := w.addr()
	w.serve(addr, "ersatz", "--cache=/var/cache/ersatz", "--compression=zstd:3", "--ipfs="+kubo.API)
	w.baked(addr, i.many, i.big)
	w.until("both items are in IPFS", func() bool { return pins() == before+2 })
	p := newProxy(t, "http://"+addr, only())
	for _, item := range []Item{i.many, i.big} {
		w.remove(item)
		w.wantFrom(w.build(item, p.URL), "urn:eris:")
		w.wantInstalled(item, w.uid("guix-daemon"))
	}
	for _, path := range p.served() {
		if !strings.HasSuffix(path, ".narinfo") {
			t.Errorf("HTTP served %s", path)
		}
	}
}

// TestFromStockServer substitutes from a stock guix publish.
func TestFromStockServer(t *testing.T) {
	w, i := withErsatz(t), makeItems(t)
	w.daemon(wrapped(true))
	w.check(w.Import(w.ctx, w.key, i.all()...))
	for _, method := range []string{"zstd:3", "gzip:1", "lzip:1"} {
		addr := w.addr()
		s := w.serve(addr, "guix", "--cache=/var/cache/"+method, "--compression="+method)
		w.baked(addr, i.many)
		w.remove(i.many)
		w.wantFrom(w.build(i.many, s.URL), s.URL)
		w.wantInstalled(i.many, w.uid("guix-daemon"))
		s.Stop()
	}
}

// TestStockClient substitutes by the stock guix substitute from our server.
func TestStockClient(t *testing.T) {
	w, i := withErsatz(t), makeItems(t)
	w.daemon(DaemonOptions{})
	w.check(w.Import(w.ctx, w.key, i.all()...))
	addr := w.addr()
	w.serve(addr, "ersatz", "--cache=/var/cache/ersatz", "--compression=zstd:3", "--compression=lzip:1", "--compression=gzip:1", "--compression=none")
	w.baked(addr, i.many, i.big)
	for _, item := range []Item{i.many, i.big} {
		w.remove(item)
		w.wantFrom(w.build(item, "http://"+addr), "http://"+addr)
		w.wantInstalled(item, 0)
	}
	// Small items are served before they are baked, and without a cache.
	live := w.addr()
	w.serve(live, "ersatz", "--compression=zstd:3")
	p := newProxy(t, "http://"+live, func(*http.Response) bool { return false })
	w.remove(i.many)
	w.check(w.Import(w.ctx, w.key, i.many))
	if status, text, err := get(w.ctx, p.URL+"/"+i.many.Path.Hash+".narinfo"); err != nil || status != http.StatusOK {
		t.Errorf("signed on request: %d, %q, %v", status, text, err)
	}
}

// TestFallback removes ersatz-substitute under a running daemon.
func TestFallback(t *testing.T) {
	w, i := withErsatz(t), makeItems(t)
	w.daemon(wrapped(true))
	w.check(w.Import(w.ctx, w.key, i.all()...))
	addr := w.publish("zstd:3", i.many)
	for what, spoil := range map[string]func() error{
		"missing":         func() error { return os.Remove(w.Path(substitutePath)) },
		"of another kind": func() error { return w.WriteFile(substitutePath, []byte("\x7fELF"), 0o755) },
		"failing":         func() error { return w.WriteFile(substitutePath, []byte("#!/bin/sh\nexit 1\n"), 0o755) },
	} {
		w.check(spoil())
		w.remove(i.many)
		out := w.build(i.many, "http://"+addr)
		w.wantFrom(out, "http://"+addr)
		w.wantInstalled(i.many, w.uid("guix-daemon"))
		if t.Failed() {
			t.Fatalf("ersatz-substitute is %s", what)
		}
	}
}
