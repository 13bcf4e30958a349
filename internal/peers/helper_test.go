package peers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/discover"
	"ersatz/internal/fetch"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/peer"
)

const format = "application/x-nix-archive+zstd-19"

// hashOf returns a NarHash for a number.
func hashOf(i int) [32]byte { return [32]byte{byte(i), byte(i >> 8), 1} }

func hashes(n int) (list [][32]byte) {
	for i := range n {
		list = append(list, hashOf(i))
	}
	return list
}

// heldOf returns what stands for a nar's content.
func heldOf(t testing.TB, part bool, leaves []byte) *peer.Held {
	t.Helper()
	c, err := eris.ParseURN("urn:eris:B4AUC7TG4IE6AFLNBDAYAURSKHFE5HFKVXCURO624VPW4JWP3452MIPUETP26I3357WOBVHORN5FTCWQ3TRZFPC2HADYU4AS6P4TAZXYWU")
	if err != nil {
		t.Fatal(err)
	}
	return &peer.Held{ReadCap: c, Format: format, Part: part, Leaves: leaves}
}

// node is a node that counts what it is asked.
type node struct {
	url string

	mu    sync.Mutex
	has   map[[32]byte]*peer.Held
	asked int            // requests
	of    map[string]int // hashes asked for
}

func newNode(t *testing.T, has map[[32]byte]*peer.Held) *node {
	t.Helper()
	n := &node{has: has, of: map[string]int{}}
	h := peer.Handler(func(_ context.Context, h [32]byte) *peer.Held {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.of[fmt.Sprint(h[:3])]++
		return n.has[h]
	})
	n.url = serve(t, func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		n.asked++
		n.mu.Unlock()
		if r.URL.Path != peer.HavePath {
			http.NotFound(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
	return n
}

// requests returns how many there were.
func (n *node) requests() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

func serve(t *testing.T, h http.HandlerFunc) (url string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// network is a Browser that knows whom it is told of.
type network struct {
	mu    sync.Mutex
	peers []discover.Peer
	err   error // of Run
}

func (n *network) set(peers ...discover.Peer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers = peers
}

func (n *network) Peers() []discover.Peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]discover.Peer(nil), n.peers...)
}

func (n *network) Run(ctx context.Context) error {
	<-ctx.Done()
	return n.err
}

// found is a node that was found.
func found(url string) discover.Peer {
	return discover.Peer{Name: "ersatz-" + url, Kind: discover.Node, URL: url, Since: time.Unix(1, 0), Seen: time.Unix(2, 0)}
}

// rig is a Set and what it is made of.
type rig struct {
	*Set
	book *fetch.Book
	net  *network
	now  func() time.Time
	skip atomic.Int64 // nanoseconds that the clock is ahead
}

func newRig(t *testing.T, named ...string) *rig {
	t.Helper()
	r := &rig{net: &network{}}
	start := time.Now()
	r.now = func() time.Time { return start.Add(time.Duration(r.skip.Load())) }
	var err error
	if r.book, err = fetch.OpenBook(filepath.Join(t.TempDir(), "sources.json"), fetch.BookOptions{Now: r.now}); err != nil {
		t.Fatal(err)
	}
	hc := httpclient.New(httpclient.Options{})
	t.Cleanup(hc.CloseIdleConnections)
	resolve := func(_ context.Context, host string) ([]netip.Addr, error) {
		switch host {
		case "near.example":
			return []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::1")}, nil
		case "both.example":
			return []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("192.0.2.1")}, nil
		case "gone.example":
			return nil, errors.New("no such host")
		}
		a, err := netip.ParseAddr(host)
		return []netip.Addr{a}, err
	}
	if r.Set, err = New(hc, named, r.net, r.book, Options{Now: r.now, Resolve: resolve}); err != nil {
		t.Fatal(err)
	}
	return r
}

func names(peers []*Peer) (list []string) {
	for _, p := range peers {
		list = append(list, p.Name())
	}
	return list
}
