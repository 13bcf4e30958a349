package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"ersatz/internal/nodeapi"
	"ersatz/narinfo"
)

func body(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func from(server, text string) nodeapi.Narinfo { return nodeapi.Narinfo{Server: server, Text: text} }

func narOf(path string, n ...nodeapi.Narinfo) nodeapi.NarRequest {
	return nodeapi.NarRequest{Path: path, Narinfos: n}
}

func setOf(n ...nodeapi.Narinfo) nodeapi.AheadRequest { return nodeapi.AheadRequest{Narinfos: n} }

const root = "uid=0"

func TestSocketNar(t *testing.T) {
	r := newRig(t)
	it := makeItem(t, guixItem, "the nar", true, "")
	r.transfers.nars[it.path.Base()] = it.nar
	r.start(guixServer)
	good := narOf(it.path.String(), from(guixServer, it.text), from("http://other.example", it.text))
	w := r.send(root, "POST", nodeapi.NarPath, body(t, good))
	if got := r.want(w, http.StatusOK); got != it.nar {
		t.Errorf("nar %q", got)
	}
	if got := w.Header().Get(nodeapi.SourceHeader); got != "http://origin.example?next" {
		t.Errorf("source %q", got)
	}
	if b := r.transfers.wants[0].Choice.Builds[0]; len(b.Nars) != 2 || b.Nars[0].Server.String() != guixServer {
		t.Errorf("nars %+v", b.Nars)
	}
	for name, c := range map[string]struct {
		from, body string
		status     int
	}{
		"not JSON":        {root, "{", 400},
		"no path":         {root, "{}", 400},
		"no narinfo":      {root, body(t, narOf(it.path.String())), 400},
		"another path":    {root, body(t, narOf(nixItem, good.Narinfos...)), 400},
		"a folder":        {root, body(t, narOf(it.path.String(), from("file:///etc", it.text))), 400},
		"no server":       {root, body(t, narOf(it.path.String(), from("", it.text))), 400},
		"many":            {root, body(t, narOf(it.path.String(), make([]nodeapi.Narinfo, nodeapi.MaxNarinfos+1)...)), 413},
		"long":            {root, body(t, narOf(it.path.String(), from(guixServer, strings.Repeat("x", nodeapi.MaxNarBody)))), 413},
		"another user":    {"uid=12345", body(t, good), 403},
		"unknown user":    {"uid=-1", body(t, good), 403},
		"not the socket":  {"127.0.0.1:1", body(t, good), 403},
		"the node's user": {"uid=" + strconv.Itoa(os.Geteuid()), body(t, good), 200},
	} {
		if w := r.send(c.from, "POST", nodeapi.NarPath, c.body); w.Code != c.status {
			t.Errorf("%s: %d, want %d; %s", name, w.Code, c.status, w.Body)
		}
	}
	clear(r.transfers.nars)
	r.want(r.send(root, "POST", nodeapi.NarPath, body(t, good)), http.StatusNotFound)
	r.transfers.err = errors.New("all failed: a, b")
	if got := r.want(r.send(root, "POST", nodeapi.NarPath, body(t, good)), http.StatusBadGateway); !strings.Contains(got, "a, b") {
		t.Errorf("says %q", got)
	}
	r.want(r.send(root, "GET", nodeapi.NarPath, ""), http.StatusMethodNotAllowed)
}

// TestStoreOwner: whoever owns the store, as guix-daemon's user does, may have
// the node fetch items of it, if it is one that the node serves: everybody owns
// some folder, and an item of that takes the place of another one with its hash part.
func TestStoreOwner(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chown(dir, 12345, -1); err != nil {
		t.Skip("needs root: ", err)
	}
	it := makeItem(t, dir+"/"+path.Base(guixItem), "the nar", true, "")
	for store, owner := range map[string]int{"/gnu/store": http.StatusForbidden, dir: http.StatusOK} {
		r := newRig(t)
		r.client.files[guixServer+"/nix-cache-info"] = "StoreDir: " + store + "\n"
		r.transfers.nars[it.path.Base()] = it.nar
		r.start(guixServer)
		nar, ahead := body(t, narOf(it.path.String(), from(guixServer, it.text))), body(t, setOf(from(guixServer, it.text)))
		for uid, want := range map[string]int{"uid=12345": owner, "uid=12346": http.StatusForbidden, root: http.StatusOK} {
			if w := r.send(uid, "POST", nodeapi.NarPath, nar); w.Code != want {
				t.Errorf("a node of %s: %s: %d %s", store, uid, w.Code, w.Body)
			}
			if w := r.send(uid, "POST", nodeapi.AheadPath, ahead); (w.Code == http.StatusForbidden) != (want == http.StatusForbidden) {
				t.Errorf("a node of %s: %s: ahead: %d %s", store, uid, w.Code, w.Body)
			}
		}
	}
}

// TestSlowSenders: users who send next to nothing keep the store's owner waiting
// neither by that nor by what peers are asked for them.
func TestSlowSenders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		it := makeItem(t, guixItem, "the nar", true, "")
		r.transfers.nars[it.path.Base()] = it.nar
		release := make(chan struct{})
		var asking, most atomic.Int32
		r.o.Have = func(_ context.Context, h [][32]byte) [][]nodeapi.Claim {
			most.Store(max(most.Load(), asking.Add(1)))
			defer asking.Add(-1)
			<-release
			return make([][]nodeapi.Claim, len(h))
		}
		r.start(guixServer)
		never, end := io.Pipe()
		var work sync.WaitGroup
		post := func(path string, body io.Reader) {
			work.Go(func() {
				req := httptest.NewRequest("POST", path, body)
				req.RemoteAddr = "uid=12345"
				r.node.Socket().ServeHTTP(httptest.NewRecorder(), req)
			})
		}
		for range 2 * maxHaves {
			post(nodeapi.HavePath, strings.NewReader(body(t, nodeapi.HaveRequest{NarHashes: []string{narinfo.FormatHash([32]byte{})}})))
		}
		synctest.Wait()
		for range 2 * maxBodies {
			post(nodeapi.NarPath, never)
		}
		synctest.Wait()
		start := time.Now()
		w := r.send(root, "POST", nodeapi.NarPath, body(t, narOf(it.path.String(), from(guixServer, it.text))))
		if got := r.want(w, http.StatusOK); got != it.nar || time.Since(start) != 0 {
			t.Errorf("nar %q after %v", got, time.Since(start))
		}
		if most.Load() != maxHaves {
			t.Errorf("peers were asked for %d requests at once", most.Load())
		}
		close(release)
		end.Close()
		work.Wait()
	})
}

func TestSocketAhead(t *testing.T) {
	r := newRig(t)
	a := makeItem(t, guixItem, "a", true, "")
	b := makeItem(t, "/gnu/store/0000000000000000000000000000000b-b", "b", true, "")
	r.start(guixServer)
	w := r.send(root, "POST", nodeapi.AheadPath, body(t, setOf(from(guixServer, a.text), from(guixServer, b.text), from("http://other.example", a.text))))
	if w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if len(r.transfers.sets) != 1 || len(r.transfers.sets[0]) != 2 || r.transfers.sets[0][0].Path != a.path || len(r.transfers.sets[0][0].Choice.Builds[0].Nars) != 2 {
		t.Errorf("sets %+v", r.transfers.sets)
	}
	for name, c := range map[string]struct {
		from   string
		req    nodeapi.AheadRequest
		status int
	}{
		"no narinfo":   {root, setOf(from(guixServer, "x")), 400},
		"a folder":     {root, setOf(from("file:///etc", a.text)), 400},
		"no path":      {root, setOf(from(guixServer, strings.ReplaceAll(a.text, "StorePath: ", "StorePath: x"))), 400},
		"many":         {root, setOf(make([]nodeapi.Narinfo, nodeapi.MaxAhead+1)...), 413},
		"another user": {"uid=12345", setOf(from(guixServer, a.text)), 403},
	} {
		if w := r.send(c.from, "POST", nodeapi.AheadPath, body(t, c.req)); w.Code != c.status {
			t.Errorf("%s: %d, want %d; %s", name, w.Code, c.status, w.Body)
		}
	}
}

func TestSocketStatus(t *testing.T) {
	r := newRig(t)
	r.o.Peers = func() []nodeapi.Peer { return []nodeapi.Peer{{Name: "p", URL: "http://192.168.1.2:8181"}} }
	r.start(guixServer, "http://me:secret@down.example")
	var s nodeapi.Status
	if err := json.Unmarshal([]byte(r.want(r.get("uid=12345", "GET", nodeapi.StatusPath), http.StatusOK)), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Upstreams) != 2 || s.Upstreams[0] != (nodeapi.Upstream{URL: guixServer, Kind: "guix", StoreDir: "/gnu/store", Answered: true}) || s.Upstreams[1].Kind != "" || s.Upstreams[1].URL != "http://me:xxxxx@down.example" || s.Kept.Quota != 7 || s.Share != "none" {
		t.Errorf("%+v", s)
	}
	var peers []nodeapi.Peer
	if err := json.Unmarshal([]byte(r.want(r.get("uid=12345", "GET", nodeapi.PeersPath), http.StatusOK)), &peers); err != nil || len(peers) != 1 || peers[0].Name != "p" {
		t.Errorf("%+v, %v", peers, err)
	}
	r.o.Peers = nil
	r.start()
	if got := r.want(r.get("uid=12345", "GET", nodeapi.PeersPath), http.StatusOK); got != "[]\n" {
		t.Errorf("no peers: %q", got)
	}
}

// TestCredentials asks over a real socket.
func TestCredentials(t *testing.T) {
	name := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	l = Credentials(l)
	defer l.Close()
	c, err := net.Dial("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := s.RemoteAddr().String(); got != "uid="+strconv.Itoa(unix.Geteuid()) {
		t.Errorf("user %q", got)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := userOf(a); got != -1 {
		t.Errorf("a pipe's user is %d", got)
	}
}
