package noded

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/internal/discover"
	"ersatz/internal/nodeapi"
	"ersatz/internal/transfer"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
)

const loopItem = "/gnu/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-item-1.0"

const (
	loopNar  = "a nar"
	loopInfo = "/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2.narinfo"
)

// loopText returns the narinfo of loopItem.
func loopText() string {
	return fmt.Sprintf("StorePath: %s\nNarHash: %s\nNarSize: %d\nReferences: \nURL: the-nar\nCompression: none\n",
		loopItem, narinfo.FormatHash(sha256.Sum256([]byte(loopNar))), len(loopNar))
}

// loopOrigin returns a server that has loopItem.
func loopOrigin(t *testing.T) *httptest.Server {
	t.Helper()
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/nix-cache-info":
			io.WriteString(w, "StoreDir: /gnu/store\n")
		case loopInfo:
			io.WriteString(w, loopText())
		case "/the-nar":
			io.WriteString(w, loopNar)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(origin.Close)
	return origin
}

// TestAsksItself has a node among its own upstreams, and clients of the socket
// that have narinfos from it: guix-daemon may know it by its URL too.
func TestAsksItself(t *testing.T) {
	origin := loopOrigin(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	self := "http://" + l.Addr().String()
	l.Close()
	var servers []*upstream.Server
	for _, url := range []string{self, origin.URL} {
		sv, err := upstream.ParseServer(url)
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, sv)
	}
	s := open(t, t.TempDir(), Options{Servers: servers})
	url, socket, _ := serveOn(t, s, listen(t, "tcp", l.Addr().String()))
	start := time.Now()
	c := nodeapi.New(socket, 0)
	defer c.Close()
	ours := get(t, url+loopInfo)
	given := []nodeapi.Narinfo{{Server: self, Text: ours}}
	if _, err := c.Nar(t.Context(), nodeapi.NarRequest{Path: loopItem, Narinfos: given}); err == nil {
		t.Error("a nar that nobody else is known to have")
	}
	given = append(given, nodeapi.Narinfo{Server: origin.URL, Text: loopText()})
	n, err := c.Nar(t.Context(), nodeapi.NarRequest{Path: loopItem, Narinfos: given})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if got := get(t, url+"/nar/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-item-1.0"); got != loopNar {
		t.Errorf("nar %q", got)
	}
	if got, err := io.ReadAll(n); err != nil || string(got) != loopNar {
		t.Errorf("nar %q, %v", got, err)
	}
	if took := time.Since(start); took > upstream.DefaultStall/2 {
		t.Errorf("it waited %v for itself", took)
	}
}

// TestWhoAsksNearServers: substitute servers that were found are asked only where
// what they have can be used.
func TestWhoAsksNearServers(t *testing.T) {
	for _, policy := range []transfer.Policy{transfer.Mixed, transfer.P2POnly} {
		origin := loopOrigin(t)
		var asked atomic.Int32
		near := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == loopInfo {
				asked.Add(1)
			}
			http.NotFound(w, r)
		}))
		defer near.Close()
		sv, err := upstream.ParseServer(origin.URL)
		if err != nil {
			t.Fatal(err)
		}
		url, _, stop := serve(t, open(t, t.TempDir(), Options{
			Servers: []*upstream.Server{sv}, Policy: policy, Browser: found{near.URL, discover.Publish},
		}))
		res, err := http.Get(url + "/nar/" + path.Base(loopItem))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if mixed := policy == transfer.Mixed; (res.StatusCode == http.StatusOK) != mixed || (asked.Load() == 1) != mixed {
			t.Errorf("%s: %s, a near server was asked %d times", policy, res.Status, asked.Load())
		}
		stop()
	}
}
