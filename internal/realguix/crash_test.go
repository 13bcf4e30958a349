package realguix

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// makeLong returns an item that can be stopped in the middle: it is much larger
// than what is asked for ahead, 256 blocks of 32 KiB.
func makeLong(t *testing.T) Item {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "long")
	if err := MakePackage(tree, 9, 3000, 28<<20); err != nil {
		t.Fatal(err)
	}
	return storeItem("long-1.0", 'f', tree)
}

// stopped runs guix build of an item, which server has uncompressed, until its
// substituter has got a part of it.
func (w *world) stopped(item Item, server string) (g *gate, done chan string) {
	w.t.Helper()
	g = newGate(20 << 20)
	p := newProxy(w.t, server, g.spoil)
	done = make(chan string, 1)
	go func() {
		// Whether it succeeds is seen in the store.
		out, _ := w.Run(w.ctx, "guix", "build", "--substitute-urls="+p.URL, item.Path.String())
		done <- out
	}()
	select {
	case <-g.reached:
	case out := <-done:
		w.t.Fatalf("guix build is done before it is stopped: %s", out)
	case <-w.ctx.Done():
		w.t.Fatal(w.ctx.Err())
	}
	w.until("a part of the item is there", func() bool { return w.parts(item) > 0 })
	return g, done
}

// TestSubstituterKilled kills the substituter in the middle of an item. The
// item is not there, and comes by the next try, with nothing left over.
func TestSubstituterKilled(t *testing.T) {
	w, item := withErsatz(t), makeLong(t)
	w.daemon(wrapped(true))
	w.check(w.Import(w.ctx, w.key, item))
	addr := w.publish("none", item)
	w.remove(item)

	_, done := w.stopped(item, "http://"+addr)
	pids, err := w.Processes("ersatz-substitute --substitute")
	w.check(err)
	if len(pids) == 0 {
		t.Fatal("no substituter runs")
	}
	w.check(w.Signal(w.ctx, "KILL", pids...))
	out := <-done
	if w.Exists(item.Path) {
		t.Errorf("a part of the item has its name: %s", out)
	}
	if out, err := w.Run(w.ctx, "guix", "gc", "--references", item.Path.String()); err == nil {
		t.Errorf("it is valid: %s", out)
	}
	w.wantFrom(w.build(item, "http://"+addr), "urn:eris:")
	w.wantInstalled(item, w.uid("guix-daemon"))
	if n := w.parts(item); n != 1 {
		t.Errorf("the store has %d names of the item, not 1", n)
	}
}

// parts returns how many names in the store have the item's name in them. The
// daemon leaves a lock at each failure.
func (w *world) parts(item Item) int {
	w.t.Helper()
	entries, err := os.ReadDir(w.Path("/gnu/store"))
	w.check(err)
	n := 0
	for _, e := range entries {
		if strings.Contains(e.Name(), item.Path.Base()) && !strings.HasSuffix(e.Name(), ".lock") {
			n++
		}
	}
	return n
}

// TestPublishKilled kills publish again and again while it bakes. Nothing that
// is half made is served, and what is served at last installs.
func TestPublishKilled(t *testing.T) {
	w, i := withErsatz(t), makeItems(t)
	w.daemon(wrapped(true))
	w.check(w.Import(w.ctx, w.key, i.all()...))
	const cache = "/var/cache/ersatz"
	url := func(addr string) string { return "http://" + addr + "/" + i.many.Path.Hash + ".narinfo" }
	for range 4 {
		addr := w.addr()
		s := w.serve(addr, "ersatz", "--cache="+cache, "--compression=zstd:19", "--cache-bypass-threshold=1")
		status, text, err := get(w.ctx, url(addr))
		if err != nil || status != http.StatusNotFound || !strings.Contains(text, "bak") {
			t.Fatalf("narinfo of an item that is not baked: %d, %q, %v", status, text, err)
		}
		w.until("the bake is under way", func() bool { return w.bytesUnder(cache) > 100_000 })
		s.Stop() // by SIGKILL
		if _, err := os.Stat(w.Path(cache + "/" + i.many.Path.Hash + ".narinfo")); err == nil {
			t.Fatal("baked before it was killed: the test shows nothing")
		}
	}
	addr := w.addr()
	w.serve(addr, "ersatz", "--cache="+cache, "--compression=zstd:3", "--cache-bypass-threshold=1")
	w.baked(addr, i.many)
	if out, err := w.Run(w.ctx, "ersatz", "fsck", cache); err != nil {
		t.Errorf("fsck: %v\n%s", err, out)
	}
	w.remove(i.many)
	w.wantFrom(w.build(i.many, "http://"+addr), "urn:eris:")
	w.wantInstalled(i.many, w.uid("guix-daemon"))
}

// bytesUnder returns how many bytes the files under a folder have.
func (w *world) bytesUnder(dir string) int64 {
	w.t.Helper()
	out, err := w.Run(w.ctx, "sh", "-c", `find "$1" -type f -printf '%s\n' | awk '{ n += $1 } END { print n + 0 }'`, "sh", dir)
	w.check(err)
	var n int64
	for _, c := range strings.TrimSpace(out) {
		n = n*10 + int64(c-'0')
	}
	return n
}

// TestCollectorMeanwhile collects garbage while an item is being substituted.
func TestCollectorMeanwhile(t *testing.T) {
	w, i, item := withErsatz(t), makeItems(t), makeLong(t)
	w.daemon(wrapped(true))
	w.check(w.Import(w.ctx, w.key, i.dep, item))
	addr := w.publish("none", item)
	w.remove(item)
	g, done := w.stopped(item, "http://"+addr)
	if out, err := w.Run(w.ctx, "guix", "gc"); err != nil {
		t.Errorf("guix gc: %v\n%s", err, out)
	}
	if w.Exists(i.dep.Path) {
		t.Errorf("%s is garbage and was not collected", i.dep.Path)
	}
	close(g.open)
	w.wantFrom(<-done, "urn:eris:")
	w.wantInstalled(item, w.uid("guix-daemon"))
}
