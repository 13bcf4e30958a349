package peers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/internal/discover"
	"ersatz/internal/fetch"
	"ersatz/internal/nodeapi"
)

func TestNamed(t *testing.T) {
	for _, c := range []struct {
		named []string
		want  string // "": no error
	}{
		{[]string{"http://a:8181", "https://b/path/"}, ""},
		{[]string{"ftp://a"}, `"ftp://a" is no http URL of a peer`},
		{[]string{"http://a", "http://a/"}, "peer http://a is given twice"},
		{slices.Repeat([]string{"http://a"}, maxNamed+1), "65 peers, limit 64"},
	} {
		s, err := New(http.DefaultClient, c.named, nil, nil, Options{})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v, %v", c.named[0], s, err)
		}
	}
}

// TestSame: a peer is the same as long as it is known, and its server too.
func TestSame(t *testing.T) {
	r := newRig(t, "http://named")
	a, b := found("http://10.0.0.1:1"), found("http://10.0.0.2:1")
	r.net.set(a, b)
	first, servers := r.Nodes(), r.Servers()
	if got := names(first); !slices.Equal(got, []string{a.URL, b.URL, "http://named"}) {
		t.Fatal(got)
	}
	b.Seen = time.Unix(3, 0)
	again := a
	again.Name = "another name"
	named := found("http://named/")
	r.net.set(b, a, again, named) // one by two names, one that was named
	if got := r.Nodes(); len(got) != 3 || !slices.Contains(got, first[0]) || !slices.Contains(got, first[1]) || !slices.Contains(got, first[2]) {
		t.Errorf("%v", names(got))
	}
	for _, sv := range r.Servers() {
		if !slices.Contains(servers, sv) {
			t.Errorf("%s is another one", sv)
		}
	}
	if got := r.Named(); len(got) != 1 || got[0].String() != "http://named" {
		t.Errorf("named: %v", got)
	}
	r.net.set(a)
	if got := names(r.Nodes()); !slices.Equal(got, []string{a.URL, "http://named"}) {
		t.Errorf("one is gone: %v", got)
	}
}

// TestOrder: near ones first, the fast ones of them before; not those that lied
// or failed.
func TestOrder(t *testing.T) {
	r := newRig(t, "http://far", "http://far-and-fast")
	var heard []discover.Peer
	for _, name := range []string{"new", "slow", "fast", "liar", "failed"} {
		heard = append(heard, found("http://"+name))
	}
	r.net.set(heard...)
	note := func(name string, latency, pace time.Duration, err error) {
		r.book.Note(fetch.Stat{Name: "http://" + name, Blocks: 1, Learnt: fetch.Learnt{Latency: latency, Pace: pace}, Err: err})
	}
	note("slow", 2*time.Millisecond, 3*time.Millisecond, nil)
	note("fast", 3*time.Millisecond, time.Millisecond, nil)
	note("far-and-fast", time.Microsecond, time.Microsecond, nil)
	note("failed", time.Microsecond, 0, errors.New("no"))
	r.book.Lied("http://liar", "wrong hint")
	want := []string{"http://fast", "http://slow", "http://new", "http://far-and-fast", "http://far"}
	if got := names(r.Nodes()); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	var servers []string
	for _, sv := range r.Servers() {
		servers = append(servers, sv.String())
	}
	if !slices.Equal(servers, want) {
		t.Errorf("servers: %v", servers)
	}
	r.skip.Add(int64(time.Minute))
	if got := names(r.Nodes()); len(got) != 6 || got[0] != "http://failed" || slices.Contains(got, "http://liar") {
		t.Errorf("a minute later: %v", got)
	}
}

// TestMany: whoever fills the network with names has at most so many asked, and
// none of those that were named driven out.
func TestMany(t *testing.T) {
	r := newRig(t, "http://named")
	r.book.Note(fetch.Stat{Name: "http://named", Blocks: 1, Learnt: fetch.Learnt{Latency: 1, Pace: 1}})
	var heard []discover.Peer
	for i := range 10 * maxFound {
		heard = append(heard, found(fmt.Sprintf("http://10.0.0.1:%d", i+1)))
	}
	heard[3].URL = "::" // which none of our browser's has
	r.net.set(heard...)
	if got := r.Nodes(); len(got) != maxAsked {
		t.Errorf("%d are asked", len(got))
	}
	if got := r.List(); len(got) != maxFound || got[0].URL != "http://named" {
		t.Errorf("%d are listed, first %s", len(got), got[0].URL)
	}
	if got := r.Named(); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

// TestNearServers: those that are near and do not answer what they have by
// NarHash, which is found out of those that were named by asking.
func TestNearServers(t *testing.T) {
	near, node := serve(t, http.NotFound), newNode(t, nil)
	r := newRig(t, near, "http://192.0.2.1:1")
	r.named[0].server.SetNear(true)
	publish := discover.Peer{Name: "guix-publish-x", Kind: discover.Publish, URL: "http://10.0.0.1:8080"}
	r.net.set(publish, found(node.url))
	for _, want := range [][]string{{publish.URL}, {near, publish.URL}} {
		var got []string
		for _, sv := range r.NearServers() {
			got = append(got, sv.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		r.named[0].mute(r.now())
		r.named[1].mute(r.now())
	}
	if s, err := New(http.DefaultClient, []string{near}, nil, r.book, Options{}); err != nil || len(s.NearServers()) != 0 || len(s.named) != 1 {
		t.Errorf("%v; of %d named", err, len(s.named))
	}
}

func TestList(t *testing.T) {
	r := newRig(t, "http://named")
	publish := discover.Peer{Name: "guix-publish-x", Kind: discover.Publish, URL: "http://10.0.0.1:8080", Since: time.Unix(5, 0), Seen: time.Unix(6, 0)}
	r.net.set(publish)
	r.book.Note(fetch.Stat{Name: publish.URL, Blocks: 3, Bytes: 99, Learnt: fetch.Learnt{Latency: 1500 * time.Microsecond, Pace: 250 * time.Microsecond}})
	want := []nodeapi.Peer{
		{Name: "http://named", URL: "http://named", Kind: "node", Named: true, Since: r.now()},
		{
			Name: "guix-publish-x", URL: publish.URL, Kind: "publish", Near: true, Since: time.Unix(5, 0), Seen: time.Unix(6, 0),
			LatencyMS: 1.5, PerBlockMS: 0.25, Blocks: 3, Bytes: 99,
		},
	}
	if got := r.List(); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	r.book.Lied(publish.URL, "no such block")
	if got := r.List()[1].Error; !strings.Contains(got, "lied on ") {
		t.Errorf("%q", got)
	}
	if s, err := New(http.DefaultClient, nil, nil, r.book, Options{}); err != nil || s.List() == nil || len(s.List()) != 0 {
		t.Errorf("nobody: %+v, %v", s.List(), err)
	}
	// Who answers was seen, whatever the network says.
	n := newNode(t, nil)
	r.net.set(found(n.url))
	r.Have(t.Context(), hashes(1))
	if got := r.List()[1]; !got.Seen.Equal(r.now()) {
		t.Errorf("%+v", got)
	}
}

// TestRun: it is known after a while where the named peers are, what the browser
// fails with is returned, and requests are waited for.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "http://127.0.0.1:1", "http://192.0.2.1", "http://near.example", "http://both.example", "http://gone.example", "http://[fe80::1%25eth0]:1")
		lookups := 0
		inner := r.o.Resolve
		r.o.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			lookups++
			return inner(ctx, host)
		}
		r.net.err = errors.New("broken")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(lookEvery + time.Second)
		synctest.Wait()
		var near []string
		for _, p := range r.named {
			if p.Near() {
				near = append(near, p.Name())
			}
		}
		if !slices.Equal(near, []string{"http://127.0.0.1:1", "http://near.example", "http://[fe80::1%25eth0]:1"}) || lookups != 12 {
			t.Errorf("near are %v, after %d look-ups", near, lookups)
		}
		finished := false
		if !r.begin(func() {
			time.Sleep(time.Second)
			finished = true
		}) {
			t.Error("no request is made")
		}
		cancel()
		if err := <-done; !errors.Is(err, r.net.err) || !finished {
			t.Errorf("%v, requests have ended: %v", err, finished)
		}
		if got := r.Have(t.Context(), hashes(2)); len(got) != 2 || got[0] != nil {
			t.Errorf("afterwards: %+v", got)
		}
	})
}

func TestResolve(t *testing.T) {
	for host, want := range map[string]string{"127.0.0.1": "127.0.0.1", "fe80::1%eth0": "fe80::1%eth0"} {
		if got, err := resolve(t.Context(), host); err != nil || len(got) != 1 || got[0].String() != want {
			t.Errorf("%s: %v, %v", host, got, err)
		}
	}
	if got, err := resolve(t.Context(), "localhost"); err != nil || len(got) == 0 || !local(got[0]) {
		t.Errorf("localhost: %v, %v", got, err)
	}
}
