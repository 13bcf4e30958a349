package transfer

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/fetch"
	"ersatz/internal/keep"
	"ersatz/internal/peers"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/peer"
	"ersatz/internal/upstream"
)

// crowd is Peers that say what a test has them say.
type crowd struct {
	*peers.Set
	claims []peers.Claim
	asked  atomic.Int32
}

func (c *crowd) Have(_ context.Context, hashes [][32]byte) [][]peers.Claim {
	c.asked.Add(1)
	all := make([][]peers.Claim, len(hashes))
	for k := range all {
		all[k] = c.claims
	}
	return all
}

// newCrowd returns peers, of which those with "near" in their name are that, for
// use within a bubble of synctest.
func newCrowd(t *testing.T, book *fetch.Book, names ...string) *crowd {
	t.Helper()
	for k := range names {
		names[k] = "http://" + names[k]
	}
	set, err := peers.New(httpclient.New(httpclient.Options{}), names, nil, book, peers.Options{
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			if strings.Contains(host, "near") {
				return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
			}
			return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
		},
	})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		set.Run(ctx)
	}()
	synctest.Wait()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return &crowd{Set: set}
}

// claim has a peer say that it has a content, of which nothing is known if there
// are no leaves.
func (c *crowd) claim(name string, rc eris.ReadCap, part bool) {
	for _, p := range c.Nodes() {
		if p.Name() == "http://"+name {
			held := peer.Held{ReadCap: rc, Format: "application/x-nix-archive+zstd-19", Part: part}
			c.claims = append(c.claims, peers.Claim{Peer: p, Held: held})
		}
	}
}

// offering is a Client whose servers have blocks.
type offering struct{ *servers }

func (offering) Blocks(sv *upstream.Server) (fetch.Source, bool) {
	return fetch.Source{Name: sv.String(), Fetcher: none{}}, true
}

// planned is an item of which only the ways are looked at.
func planned(t *testing.T, trans *Transfers, x *thing, servers ...string) *item {
	t.Helper()
	w := x.want(t, servers...)
	return &item{t: trans, want: w, build: w.Choice.Builds[0], bad: map[keep.PartID]bool{}, anew: map[keep.PartID]bool{}, waited: map[*upstream.Server]bool{}, log: trans.log}
}

// brief says what ways there are: "signed", "hint", "SERVER METHOD".
func brief(ways []way) string {
	var all []string
	for _, w := range ways {
		switch {
		case w.server != nil:
			all = append(all, strings.TrimPrefix(w.server.String(), "http://")+" "+w.method)
		case w.item.Signed:
			all = append(all, "signed")
		default:
			all = append(all, "hint")
		}
	}
	return strings.Join(all, ", ")
}

// TestOrder: "When to use what".
func TestOrder(t *testing.T) {
	small := newThing(t, 1, small, "zstd", "none")
	large := newThing(t, 2, 1<<20+1, "zstd", "gzip")
	bare, bareLarge := newThing(t, 3, 5000, "gzip", "zstd"), newThing(t, 4, 2<<20, "gzip", "zstd")
	bare.unsigned()
	bareLarge.unsigned()
	bareLarge.order, bareLarge.files["lzip"] = []string{"lzip", "gzip", "zstd"}, []byte("not read")
	other := newThing(t, 5, 40_000, "zstd").rc
	third := newThing(t, 6, 40_000, "zstd").rc
	none := func(*crowd, *thing) {}
	for _, c := range []struct {
		name   string
		policy Policy
		x      *thing
		peers  func(c *crowd, x *thing)
		want   string
	}{
		{"small", Mixed, small, none, "a zstd, a none, signed"},
		{"small, a far peer has it", Mixed, small, func(c *crowd, x *thing) { c.claim("far", x.rc, false) }, "a zstd, a none, signed"},
		{"small, a near peer has it", Mixed, small, func(c *crowd, x *thing) { c.claim("near", x.rc, false) }, "signed, a zstd, a none"},
		{"small, a near peer has some", Mixed, small, func(c *crowd, x *thing) { c.claim("near", x.rc, true) }, "a zstd, a none, signed"},
		{"large", Mixed, large, none, "signed, a zstd, a gzip"},
		{"large, with a hint", Mixed, large, func(c *crowd, _ *thing) { c.claim("near", other, false) }, "signed, hint, a zstd, a gzip"},
		{"large, with a part of a hint", Mixed, large, func(c *crowd, _ *thing) { c.claim("near", other, true) }, "signed, a zstd, a gzip, hint"},
		{"small without a URN", Mixed, bare, none, "a zstd, a gzip"},
		{"small, with a far hint", Mixed, bare, func(c *crowd, x *thing) { c.claim("far", other, false) }, "a zstd, a gzip, hint"},
		{"small, with a near hint", Mixed, bare, func(c *crowd, x *thing) { c.claim("near", other, false) }, "hint, a zstd, a gzip"},
		{"large without a URN", Mixed, bareLarge, none, "a zstd, a gzip, a lzip"},
		{"large, with hints", Mixed, bareLarge, func(c *crowd, x *thing) { c.claim("far", other, false); c.claim("near", third, true) }, "hint, a zstd, a gzip, a lzip, hint"},
		{"peers alone", P2POnly, large, none, ""},
		{"peers alone, which have it", P2POnly, large, func(c *crowd, x *thing) { c.claim("far", x.rc, true); c.claim("near", other, false) }, "signed, hint"},
		{"peers alone, small", P2POnly, small, func(c *crowd, x *thing) { c.claim("far", x.rc, false) }, "signed"},
		{"nars alone", HTTPOnly, large, func(c *crowd, x *thing) { c.claim("near", x.rc, false) }, "a zstd, a gzip"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				trans, _, book := bubbled(t, offering{newServers()}, Options{})
				crowd := newCrowd(t, book, "near", "far")
				c.peers(crowd, c.x)
				trans = New(trans.store, trans.client, book, Options{Policy: c.policy, Peers: crowd})
				i := planned(t, trans, c.x, "http://a")
				if got := brief(i.ways(t.Context(), true)); got != c.want {
					t.Errorf("%q, want %q", got, c.want)
				}
				if (crowd.asked.Load() > 0) == (c.policy == HTTPOnly) {
					t.Errorf("peers were asked %d times", crowd.asked.Load())
				}
			})
		})
	}
}

// Of hints, what most peers have whole comes first, a few are tried, and none that
// the rules of mirrors cannot make.
func TestHintsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trans, _, book := bubbled(t, offering{newServers()}, Options{})
		names := []string{"p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"}
		crowd := newCrowd(t, book, names...)
		trans.o.Peers = crowd
		var caps []eris.ReadCap
		for k := range 7 {
			caps = append(caps, newThing(t, byte(k+10), 40_000, "none").rc)
		}
		odd := newThing(t, 9, 100_000, "none").recode(t, eris.Size1KiB).rc
		crowd.claim("p0", odd, false)
		for k, c := range []int{0, 1, 2, 2, 3, 4, 5} { // of p1 …
			crowd.claim(fmt.Sprint("p", k+1), caps[c], c == 0 || c == 3)
		}
		i := planned(t, trans, newThing(t, 1, 2<<20, "zstd").unsigned(), "http://a")
		var got []int
		for _, c := range i.hinted(crowd.claims) {
			got = append(got, slices.Index(caps, c.readCap))
		}
		if !slices.Equal(got, []int{2, 1, 4, 5}) {
			t.Errorf("contents %v", got)
		}
	})
}

// Servers that failed, and those much slower than another, are asked last; the
// node knows that after a restart too.
func TestServersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newThing(t, 1, 2<<20, "zstd").unsigned()
		trans, store, _ := bubbled(t, newServers(), Options{})
		file := filepath.Join(t.TempDir(), "sources.json")
		book, err := fetch.OpenBook(file, fetch.BookOptions{})
		must(t, err)
		for name, pace := range map[string]time.Duration{"a": 9 * time.Millisecond, "b": 2 * time.Millisecond, "c": 7 * time.Millisecond} {
			book.Note(fetch.Stat{Name: "nar http://" + name, Blocks: 10, Learnt: fetch.Learnt{Latency: 1, Pace: pace}})
		}
		book.Note(fetch.Stat{Name: "nar http://d", Err: errGiven})
		order := func() string {
			t.Helper()
			i := planned(t, New(store, trans.client, book, Options{}), x, "http://d", "http://a", "http://e", "http://b", "http://c")
			return strings.ReplaceAll(brief(i.ways(t.Context(), true)), " zstd", "")
		}
		const want = "e, b, c, a, d"
		if got := order(); got != want {
			t.Errorf("order %s, want %s", got, want)
		}
		must(t, book.Save())
		book, err = fetch.OpenBook(file, fetch.BookOptions{})
		must(t, err)
		if got := order(); got != want {
			t.Errorf("after a restart: order %s, want %s", got, want)
		}
		after(time.Minute)
		if got := order(); got != "d, e, b, c, a" {
			t.Errorf("a minute later: %s", got)
		}
	})
}

// TestSources: who is asked for blocks from the beginning, and which networks may
// be later.
func TestSources(t *testing.T) {
	const mib = 1 << 20
	failed, lied := errGiven, &eris.CorruptError{}
	things := map[int]*thing{}
	for _, size := range []int{mib / 4, mib, 5 * mib, 6 * mib} {
		things[size] = newThing(t, 1, size, "none")
	}
	for _, c := range []struct {
		name   string
		size   int
		policy Policy
		claims string // "near", "far", or both
		err    map[string]error
		paces  map[string]time.Duration // of a network: its start
		want   string
	}{
		{"the origin", mib, Mixed, "", nil, nil, "near far a ndn | ipfs gnunet"},
		{"a small item", mib / 4, Mixed, "", nil, nil, "near far a | ndn ipfs gnunet"},
		{"a small item of two", mib / 4, Mixed, "far", nil, nil, "near far a | ndn ipfs gnunet"},
		{"no more than a fifth", 5 * mib, Mixed, "", nil, nil, "near far a ndn | ipfs gnunet"},
		{"a large one, nothing is known", 6 * mib, Mixed, "", nil, nil, "near far a ndn ipfs | gnunet"},
		{"a large one of two", 6 * mib, Mixed, "far", nil, nil, "near far a ndn | ipfs gnunet"},
		{"nobody has it", mib, P2POnly, "", nil, nil, "near far ndn | ipfs gnunet"},
		{"nobody has it, and nothing begins soon", mib, P2POnly, "", nil, map[string]time.Duration{"ndn": time.Second}, "near far ndn ipfs gnunet |"},
		{"a peer has it", 5 * mib, P2POnly, "near", nil, map[string]time.Duration{"near": time.Microsecond}, "near far | ndn ipfs gnunet"},
		{"fast server", 5 * mib, Mixed, "", nil, map[string]time.Duration{"a": time.Millisecond}, "near far a | ndn ipfs gnunet"},
		{"slow server", 5 * mib, Mixed, "", nil, map[string]time.Duration{"a": 40 * time.Millisecond}, "near far a ndn ipfs | gnunet"},
		{"slow server, slow daemon", 5 * mib, Mixed, "", nil, map[string]time.Duration{"a": 40 * time.Millisecond, "ipfs": 2 * time.Second}, "near far a ndn | ipfs gnunet"},
		{"slow server, peer", 5 * mib, Mixed, "near", nil, map[string]time.Duration{"a": 40 * time.Millisecond, "near": time.Millisecond}, "near far a | ndn ipfs gnunet"},
		{"the origin failed", mib, Mixed, "", map[string]error{"a": failed}, nil, "near far ndn a | ipfs gnunet"},
		{"its nars failed", mib, Mixed, "", map[string]error{"nar a": failed}, nil, "near far ndn a | ipfs gnunet"},
		{"the origin failed, a peer has it", mib / 4, Mixed, "far", map[string]error{"a": failed}, nil, "near far | ndn ipfs gnunet"},
		{"the origin lied", mib, Mixed, "", map[string]error{"a": lied}, nil, "near far ndn | ipfs gnunet"},
		{"all lied", mib, Mixed, "near far", map[string]error{"a": lied, "near": lied, "far": lied, "ndn": lied, "ipfs": lied, "gnunet": lied}, nil, "|"},
		{"a network failed", 6 * mib, Mixed, "", map[string]error{"ndn": failed, "gnunet": lied}, nil, "near far a ipfs | ndn"},
		{"a network failed, nobody has it", mib, P2POnly, "", map[string]error{"ndn": failed}, nil, "near far ipfs gnunet | ndn"},
		{"all networks failed", mib, P2POnly, "", map[string]error{"ndn": failed, "ipfs": failed, "gnunet": failed}, nil, "near far ndn ipfs gnunet |"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				trans, _, book := bubbled(t, offering{newServers()}, Options{})
				crowd := newCrowd(t, book, "near", "far")
				x := things[c.size]
				for _, name := range strings.Fields(c.claims) {
					crowd.claim(name, x.rc, false)
				}
				networks := []fetch.Network{{Name: "ndn", Start: time.Second / 10}, {Name: "ipfs", Start: time.Second}, {Name: "gnunet", Start: 5 * time.Second}}
				named := func(name string) string {
					if slices.ContainsFunc(networks, func(n fetch.Network) bool { return n.Name == name }) {
						return name
					}
					if nar, ok := strings.CutPrefix(name, "nar "); ok {
						return "nar http://" + nar
					}
					return "http://" + name
				}
				for name, err := range c.err {
					book.Note(fetch.Stat{Name: named(name), Err: err})
				}
				for name, pace := range c.paces {
					l := fetch.Stat{Name: named(name), Blocks: 1, Learnt: fetch.Learnt{Latency: time.Millisecond, Pace: pace}}
					if l.Name == name {
						l.Name, l.Learnt = "start "+name, fetch.Learnt{Latency: pace}
					}
					book.Note(l)
				}
				trans.o.Peers, trans.o.Policy, trans.o.Networks = crowd, c.policy, networks
				i := planned(t, trans, x, "http://a")
				found := i.sources(i.signedContent(crowd.claims))
				var names []string
				for _, s := range found.all {
					names = append(names, strings.TrimPrefix(s.Name, "http://"))
				}
				for _, n := range found.now {
					names = append(names, n.Name)
				}
				for _, s := range found.doubted {
					names = append(names, strings.TrimPrefix(s.Name, "http://"))
				}
				names = append(names, "|")
				for _, n := range found.later {
					names = append(names, n.Name)
				}
				if got := strings.Join(names, " "); got != c.want {
					t.Errorf("%q, want %q", got, c.want)
				}
			})
		})
	}
}

func TestPolicies(t *testing.T) {
	for k, name := range Policies() {
		p, err := ParsePolicy(name)
		if err != nil || int(p) != k || p.String() != name {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	if _, err := ParsePolicy("Mixed"); err == nil {
		t.Error("no error")
	}
}
