package realguix

import (
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"ersatz/narinfo"
)

// origin is a machine whose publish server has items, behind a proxy that
// counts what is fetched.
type origin struct {
	*proxy
	fetched *tally
	addr    string
	stop    func()
}

// newOrigin serves items by "guix", which knows nothing of URNs, or "ersatz".
func newOrigin(t *testing.T, server, compression string, also spoiler, items ...Item) *origin {
	t.Helper()
	w := withErsatz(t)
	d := w.daemon(DaemonOptions{})
	w.check(w.Import(w.ctx, w.key, items...))
	o := &origin{addr: w.addr(), fetched: &tally{}}
	s := w.serve(o.addr, server, "--cache=/var/cache/"+server, "--compression="+compression, "--cache-bypass-threshold=1")
	text := w.baked(o.addr, items...)
	if got := strings.Contains(text, "\nERIS: "); got != (server == "ersatz") {
		t.Errorf("%s publish says:\n%s", server, text)
	}
	o.proxy = newProxy(t, "http://"+o.addr, func(res *http.Response) bool {
		return also != nil && also(res) || o.fetched.spoil(res)
	})
	o.stop = func() {
		s.Stop()
		d.Stop()
	}
	return o
}

// fileSize returns the size of the compressed nar of an item.
func (o *origin) fileSize(w *world, item Item) int64 {
	w.t.Helper()
	text := w.baked(o.addr, item)
	n, err := narinfo.Parse([]byte(text))
	w.check(err)
	return int64(n.Nars[0].FileSize)
}

// tally counts the bytes of nars and blocks.
type tally struct{ n atomic.Int64 }

func (t *tally) spoil(res *http.Response) bool {
	if isNar(res) || isBlock(res) {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(res.Body, t), res.Body}
	}
	return false
}

func (t *tally) Write(p []byte) (int, error) {
	t.n.Add(int64(len(p)))
	return len(p), nil
}

// wantOnce checks that what was fetched for an item is about as much as it has.
// overhead is what may come on top, in percent.
func (o *origin) wantOnce(w *world, item Item, overhead int64) {
	w.t.Helper()
	size, got := o.fileSize(w, item), o.fetched.n.Load()
	w.t.Logf("%d bytes were fetched of %d", got, size)
	if got < size || got > size+size*overhead/100 {
		w.t.Errorf("%d bytes were fetched of %d", got, size)
	}
}

// client is a machine with an empty store and a stock guix-daemon.
func client(t *testing.T) *world {
	t.Helper()
	w := withErsatz(t)
	w.daemon(DaemonOptions{})
	return w
}

// wantFetched installs an item, with what it refers to, from a server.
func (w *world) wantFetched(item Item, server string) {
	w.t.Helper()
	w.wantFrom(w.build(item, server), server)
	w.wantInstalled(item, 0)
}

// forgetAll empties the store, and what is remembered of servers' answers.
func (w *world) forgetAll(items ...Item) {
	w.t.Helper()
	for _, item := range items {
		w.remove(item)
	}
}

// TestNodeKeeps: what a stock guix-daemon has installed through a node comes
// from the node again, narinfo and all, after a restart and with the upstream
// gone; on another machine too.
func TestNodeKeeps(t *testing.T) {
	for _, server := range []string{"guix", "ersatz"} {
		t.Run(server, func(t *testing.T) {
			i := makeItems(t)
			o := newOrigin(t, server, "zstd:3", nil, i.dep, i.many)
			w := client(t)
			addr := w.addr()
			n := w.node(addr, "--socket=none", "--upstream="+o.URL)
			w.wantFetched(i.many, "http://"+addr)

			o.stop()
			n.Stop()
			w.forgetAll(i.many, i.dep)
			w.node(addr, "--socket=none", "--upstream="+o.URL)
			w.wantFetched(i.many, "http://"+addr)
			other := client(t)
			other.wantFetched(i.many, "http://"+addr)
			other.wantInstalled(i.dep, 0)

			if out, err := w.Run(w.ctx, "ersatz", "fsck", nodeState); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestNodeFetchesOnce: two machines that ask at the same time share one fetch.
func TestNodeFetchesOnce(t *testing.T) {
	for _, server := range []string{"guix", "ersatz"} {
		t.Run(server, func(t *testing.T) {
			item := makeLong(t)
			g := newGate(10 << 20)
			o := newOrigin(t, server, "none", g.spoil, item)
			first, second := client(t), client(t)
			addr := first.addr()
			first.node(addr, "--socket=none", "--upstream="+o.URL)
			behind := newProxy(t, "http://"+addr, func(*http.Response) bool { return false })

			done := make(chan struct{})
			go func() {
				defer close(done)
				first.build(item, "http://"+addr)
			}()
			first.until("a part has come", func() bool { return isDone(g.reached) || isDone(done) })
			seconds := make(chan struct{})
			go func() {
				defer close(seconds)
				second.build(item, behind.URL)
			}()
			second.until("the second one gets the nar", func() bool {
				return strings.Contains(strings.Join(behind.served(), "\n"), "/nar/") || isDone(seconds)
			})
			if isDone(done) || isDone(seconds) {
				t.Error("a client is done before the origin has sent all")
			}
			close(g.open)
			<-done
			<-seconds
			first.wantInstalled(item, 0)
			second.wantInstalled(item, 0)
			o.wantOnce(first, item, 2)
		})
	}
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestNodeHint: of an upstream that knows nothing of URNs, a node makes blocks
// of its own, and another node gets them from it with the upstream gone.
func TestNodeHint(t *testing.T) {
	for _, compression := range []string{"zstd:3", "gzip:3"} {
		t.Run(compression, func(t *testing.T) {
			i := makeItems(t)
			o := newOrigin(t, "guix", compression, nil, i.dep, i.many, i.big)
			w := client(t)
			addr := w.addr()
			_, port, _ := strings.Cut(addr, ":")
			first := w.nodeOn("0.0.0.0:"+port, addr, "--socket=none", "--upstream="+o.URL, "--share=lan", "--share-list=/etc/guix/acl")
			for _, item := range []Item{i.many, i.big} {
				w.wantFetched(item, "http://"+addr)
			}
			hint := w.wantHint(addr, i.big)

			other := client(t)
			second := other.addr()
			other.node(second, "--socket=none", "--upstream="+o.URL, "--peer=http://"+addr, "--policy=p2p-only")
			other.baked(second, i.dep) // what kind the upstream is of is known now
			o.stop()
			fetched := o.fetched.n.Load()
			for _, item := range []Item{i.many, i.big} {
				other.wantFetched(item, "http://"+second)
			}
			if !strings.Contains(first.Log(), "path=/eris/blocks") {
				t.Error("the first node was asked for no blocks")
			}
			if n := o.fetched.n.Load(); n != fetched {
				t.Errorf("the upstream gave %d bytes", n-fetched)
			}
			if got := other.wantHint(second, i.big); got != hint {
				t.Errorf("the second node has %s, the first %s", got, hint)
			}
		})
	}
}

// wantHint returns the URN that a node adds to the narinfo of an item, where
// the signature does not cover it.
func (w *world) wantHint(addr string, item Item) string {
	w.t.Helper()
	var hint string
	var text string
	w.until("the node has a hint", func() bool {
		var err error
		_, text, err = get(w.ctx, "http://"+addr+"/"+item.Path.Hash+".narinfo")
		w.check(err)
		_, unsigned, _ := strings.Cut(text, "\nSignature: ")
		_, hint, _ = strings.Cut(unsigned, "\nERISHint: ")
		hint, _, _ = strings.Cut(hint, "\n")
		return hint != ""
	})
	if !strings.HasPrefix(hint, "urn:eris:") || strings.Contains(text, "\nERIS: ") {
		w.t.Errorf("narinfo:\n%s", text)
	}
	return hint
}

// TestNodeKilled: a node that is killed in the middle of an item and started
// again goes on where it was, and its clients have the item: ours without a
// word, the stock one when it is asked again.
func TestNodeKilled(t *testing.T) {
	for name, policy := range map[string]string{"stock": "mixed", "stock, whole nars": "http-only", "ours": "mixed"} {
		t.Run(name, func(t *testing.T) {
			ours := name == "ours"
			item := makeLong(t)
			g := newGate(20 << 20)
			o := newOrigin(t, "ersatz", "none", g.spoil, item)
			w := withErsatz(t)
			addr := w.addr()
			args := []string{"--socket=" + nodeSocket, "--upstream=" + o.URL, "--policy=" + policy}
			n := w.node(addr, args...)
			from := "http://" + addr
			if ours {
				w.daemon(wrapped(false))
				from = o.URL
			} else {
				w.daemon(DaemonOptions{})
			}
			done := make(chan string, 1)
			go func() {
				// Whether it succeeds is seen in the store.
				out, _ := w.Run(w.ctx, "guix", "build", "--substitute-urls="+from, item.Path.String())
				done <- out
			}()
			select {
			case <-g.reached:
			case out := <-done:
				t.Fatalf("guix build is done before the node is killed: %s", out)
			}
			w.until("the part has all that the origin has sent", func() bool { return w.usage(filepath.Join(nodeState, "parts")) >= 18<<20 })
			n.Stop()
			w.node(addr, args...)
			close(g.open)
			out := <-done
			if !ours {
				w.check(w.ForgetNarinfos())
				w.build(item, from)
			}
			w.wantInstalled(item, 0)
			if t.Failed() {
				t.Log(out)
			}
			o.wantOnce(w, item, 5)
		})
	}
}

// usage returns how much a folder of the machine takes, in bytes; 0 if it
// changed meanwhile.
func (w *world) usage(dir string) (n int64) {
	w.t.Helper()
	out, err := w.Run(w.ctx, "du", "-s", "--block-size=1", dir)
	if err != nil {
		return 0
	}
	n, err = strconv.ParseInt(strings.Fields(out)[0], 10, 64)
	w.check(err)
	return n
}

// TestNodeQuota: what is larger than the quota reaches its client all the same,
// and what is kept stays below.
func TestNodeQuota(t *testing.T) {
	const quota = 3 << 20
	i := makeItems(t)
	o := newOrigin(t, "ersatz", "none", nil, i.all()...)
	w := client(t)
	addr := w.addr()
	w.node(addr, "--socket=none", "--upstream="+o.URL, "--quota="+strconv.Itoa(quota))
	for _, item := range []Item{i.many, i.big, i.dep} {
		w.build(item, "http://"+addr)
		w.wantInstalled(item, 0)
	}
	w.until("what is kept is below the quota", func() bool {
		n := w.usage(nodeState)
		return n > 0 && n <= quota+1<<20
	})
	if out, err := w.Run(w.ctx, "ersatz", "fsck", nodeState); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
