package node

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/internal/upstream"
	"ersatz/nixbase32"
)

// numbered returns an unsigned item that refers to others by number.
func numbered(t *testing.T, n int, refs ...int) testItem {
	t.Helper()
	base := func(n int) string { return nixbase32.Encode(fmt.Appendf(nil, "%020d", n)) + "-item" }
	var list []string
	for _, k := range refs {
		list = append(list, base(k))
	}
	it := makeItem(t, "/gnu/store/"+base(n), fmt.Sprint(n), false, "")
	it.text = strings.Replace(it.text, "References: ", "References: "+strings.Join(list, " "), 1)
	return it
}

// running has the node of a rig run in a bubble.
func (r *rig) running(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.node.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestRefs: what an item refers to is looked up once this machine asks for its
// narinfo, and what that refers to; each once, and not what is kept.
func TestRefs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		items := []testItem{
			numbered(t, 0, 0, 1, 2, 3), numbered(t, 1, 4), numbered(t, 2, 1, 5), numbered(t, 3, 6), numbered(t, 4, 0, 9),
			numbered(t, 5), numbered(t, 6), numbered(t, 7, 5),
		}
		for _, it := range items {
			r.publish(guixServer, it)
		}
		r.keep(guixServer, items[3])
		r.start(guixServer)
		r.running(t)
		lookedUp := func() (list []int) {
			time.Sleep(time.Second)
			for n := range 10 {
				for range r.client.count(guixServer + "/" + numbered(t, n).path.Hash + ".narinfo") {
					list = append(list, n)
				}
			}
			return list
		}
		r.want(r.get("", "GET", "/"+items[0].path.Hash+".narinfo"), 200)
		if got, want := lookedUp(), []int{0, 1, 2, 4, 5, 9}; !slices.Equal(got, want) {
			t.Errorf("%d were looked up, not %d", got, want)
		}
		r.want(r.get("", "GET", "/"+items[7].path.Hash+".narinfo"), 200)
		if got, want := lookedUp(), []int{0, 1, 2, 4, 5, 7, 9}; !slices.Equal(got, want) {
			t.Errorf("then %d, not %d", got, want)
		}
		if len(r.transfers.sets) != 2 {
			t.Errorf("what was only looked up may be asked for: %+v", r.transfers.sets)
		}
	})
}

// TestRefsBounds: what waits and what is remembered are bounded, and what
// somebody asks for meanwhile is not looked up.
func TestRefsBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		many := make([]int, refsSeen+100)
		for k := range many {
			many[k] = k + 10
		}
		top := numbered(t, 0, many...)
		r.publish(guixServer, top)
		r.start(guixServer)
		r.want(r.get("", "GET", "/"+top.path.Hash+".narinfo"), 200)
		if len(r.node.refs.queue) != refsQueued || len(r.node.refs.seen) > refsSeen {
			t.Errorf("%d wait, %d are remembered", len(r.node.refs.queue), len(r.node.refs.seen))
		}
		x := numbered(t, 10)
		if r.node.refs.add(x.path.Hash); r.node.refs.add(x.path.Hash) {
			t.Error("an item was added twice")
		}
		if !r.node.refs.take(x.path.Hash) || r.node.refs.take(x.path.Hash) {
			t.Error("an item is not looked up once")
		}
		for k := range refsSeen + 100 {
			r.node.refs.asked(fmt.Sprintf("%032d", k))
		}
		if n := len(r.node.refs.seen); n > refsSeen {
			t.Errorf("%d that were asked for are remembered", n)
		}
		time.Sleep(refsFor)
		if !r.node.refs.add(x.path.Hash) {
			t.Error("an hour later it counts as looked up")
		}
	})
}

// TestRefsWithoutEnd: an upstream that makes narinfos up, each of which refers to
// further ones, has no more looked up than clients may be about to ask for.
func TestRefsWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var items []testItem
		for k := range 4 * refsAhead {
			items = append(items, numbered(t, k, k+1, k+2))
			r.publish(guixServer, items[k])
		}
		r.start(guixServer)
		r.running(t)
		ask := func(k int) (lookedUp int) {
			r.want(r.get("", "GET", "/"+items[k].path.Hash+".narinfo"), 200)
			time.Sleep(time.Second)
			for _, it := range items {
				lookedUp += r.client.count(guixServer + "/" + it.path.Hash + ".narinfo")
			}
			return lookedUp
		}
		if n := ask(0); n != 1+refsAhead {
			t.Errorf("%d were looked up for one that was asked for", n)
		}
		// What was left out is looked up when clients have come that far.
		n := 0
		for k := range 2 * refsAtOnce {
			n = ask(refsAhead + k)
		}
		if n < 2*refsAhead {
			t.Errorf("%d were looked up in the end", n)
		}
	})
}

// TestRefsOfOthers: others have nothing looked up.
func TestRefsOfOthers(t *testing.T) {
	r := newRig(t)
	r.o.Share = ShareAll
	it := numbered(t, 0, 1)
	r.publish(guixServer, it)
	r.start(guixServer)
	r.get("192.0.2.1:1234", "GET", "/"+it.path.Hash+".narinfo")
	if n := len(r.node.refs.queue); n != 0 {
		t.Errorf("%d wait", n)
	}
}

// TestRefsMemory: what is remembered of what an item refers to is not the item's
// narinfo, which may be long.
func TestRefsMemory(t *testing.T) {
	const items, long = 64, 256 << 10
	r := newRig(t)
	r.start(guixServer)
	f := r.node.upstreams.face(Guix)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for n := range items {
		it := numbered(t, 2*n, 2*n+1)
		answer := upstream.Answer{Server: f.servers[0], Text: []byte(it.text + "Padding: " + strings.Repeat("x", long) + "\n")}
		x, err := choose(it.path, []upstream.Answer{answer}, r.node.signers.anything)
		if err != nil {
			t.Fatal(err)
		}
		r.node.refs.follow(f, x)
	}
	if queued := len(r.node.refs.queue); queued != items {
		t.Errorf("%d are to be looked up", queued)
	}
	if took := heap() - before; took > items*long/8 {
		t.Errorf("%d items take %d bytes", items, took)
	}
	runtime.KeepAlive(r)
}
