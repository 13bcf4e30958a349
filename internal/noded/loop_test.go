package noded

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"ersatz/internal/nodeapi"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
)

const loopItem = "/gnu/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-item-1.0"

// TestAsksItself has a node among its own upstreams, and clients of the socket
// that have narinfos from it: guix-daemon may know it by its URL too.
func TestAsksItself(t *testing.T) {
	nar := "a nar"
	text := fmt.Sprintf("StorePath: %s\nNarHash: %s\nNarSize: %d\nReferences: \nURL: the-nar\nCompression: none\n",
		loopItem, narinfo.FormatHash(sha256.Sum256([]byte(nar))), len(nar))
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/nix-cache-info":
			io.WriteString(w, "StoreDir: /gnu/store\n")
		case "/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2.narinfo":
			io.WriteString(w, text)
		case "/the-nar":
			io.WriteString(w, nar)
		default:
			http.NotFound(w, r)
		}
	}))
	defer origin.Close()
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
	ours := get(t, url+"/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2.narinfo")
	given := []nodeapi.Narinfo{{Server: self, Text: ours}}
	if _, err := c.Nar(t.Context(), nodeapi.NarRequest{Path: loopItem, Narinfos: given}); err == nil {
		t.Error("a nar that nobody else is known to have")
	}
	given = append(given, nodeapi.Narinfo{Server: origin.URL, Text: text})
	n, err := c.Nar(t.Context(), nodeapi.NarRequest{Path: loopItem, Narinfos: given})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if got := get(t, url+"/nar/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-item-1.0"); got != nar {
		t.Errorf("nar %q", got)
	}
	if got, err := io.ReadAll(n); err != nil || string(got) != nar {
		t.Errorf("nar %q, %v", got, err)
	}
	if took := time.Since(start); took > upstream.DefaultStall/2 {
		t.Errorf("it waited %v for itself", took)
	}
}
