package realguix

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// makeShared returns items of which some files are the same: a few packages of
// one program's versions.
func makeShared(t *testing.T, count int) (items []Item) {
	t.Helper()
	for k := range count {
		tree := filepath.Join(t.TempDir(), "tree")
		for _, err := range []error{
			MakePackage(tree, uint64(20+k), 200, 5<<20),
			MakeFile(filepath.Join(tree, "same"), 7, 1<<20),
			MakeFile(filepath.Join(tree, "same again"), 7, 1<<20),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		items = append(items, storeItem(fmt.Sprintf("version-%d", k), "0123456789"[k], tree))
	}
	return items
}

// TestSeveralAtOnce: a guix-daemon that may run four jobs has four substituters
// at work at once, of which one has a second item after its first. One of the
// two servers dies while they are at it. All items come whole, share what they
// have in common, and next to nothing is fetched twice, with a node or without.
func TestSeveralAtOnce(t *testing.T) {
	for name, node := range map[string]bool{"alone": false, "with a node": true} {
		t.Run(name, func(t *testing.T) { testSeveralAtOnce(t, node) })
	}
}

func testSeveralAtOnce(t *testing.T, node bool) {
	const jobs = 4
	w, items := withErsatz(t), makeShared(t, jobs+1)
	w.daemon(wrapped(true))
	w.check(w.Import(w.ctx, w.key, items...))
	g, fetched := newGate(4<<20), &tally{}
	var narinfos atomic.Int64
	var urls []string
	var servers []*Server
	var size int64
	for k := range 2 {
		addr := w.addr()
		servers = append(servers, w.serve(addr, "ersatz", fmt.Sprintf("--cache=/var/cache/ersatz-%d", k), "--compression=none", "--cache-bypass-threshold=1"))
		w.baked(addr, items...)
		urls = append(urls, newProxy(t, "http://"+addr, func(res *http.Response) bool {
			if isNarinfo(res) {
				narinfos.Add(1)
			}
			return fetched.spoil(res) || g.spoil(res)
		}).URL)
	}
	for _, item := range items {
		info, err := w.Hash(item.Path)
		w.check(err)
		size += info.Size
	}
	w.forgetAll(items...)
	if node {
		w.node(w.addr(), "--socket="+nodeSocket, "--upstream="+urls[0], "--upstream="+urls[1])
	}

	args := []string{"build", fmt.Sprintf("--max-jobs=%d", jobs), "--substitute-urls=" + strings.Join(urls, " ")}
	for _, item := range items {
		args = append(args, item.Path.String())
	}
	done := make(chan string, 1)
	go func() {
		out, _ := w.Run(w.ctx, "guix", args...) // whether it succeeds is seen in the store
		done <- out
	}()
	w.until("four substituters are at work, and held back", func() bool {
		pids, err := w.Processes("ersatz-substitute --substitute")
		w.check(err)
		if len(pids) > jobs || len(done) > 0 {
			t.Fatalf("substituters %v, %d of them", pids, len(pids))
		}
		return len(pids) == jobs && isDone(g.reached)
	})
	servers[0].Stop()
	close(g.open)
	out := <-done
	if strings.Contains(out, "node does not give a substitute") {
		t.Error("the node was left aside")
	}
	for _, item := range items {
		w.wantInstalled(item, w.uid("guix-daemon"))
		w.wantDeduplicated(item)
	}
	if n := narinfos.Load(); !node && n != int64(2*len(items)) {
		t.Errorf("servers were asked for %d narinfos of %d items", n, len(items))
	}
	if n := fetched.n.Load(); n < size || n > size+size/4 {
		t.Errorf("%d bytes were fetched of %d", n, size)
	}
	if t.Failed() {
		t.Log(out)
	}
}
