package substitute_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/internal/nodeapi"
)

// fakeNode is a node that handler answers for; the number of the request for a
// nar, from 1 on, is handed to it.
type fakeNode struct {
	socket string
	mu     sync.Mutex
	nars   []nodeapi.NarRequest
	ahead  chan nodeapi.AheadRequest
}

func newNode(t *testing.T, m *machine, handler func(w http.ResponseWriter, r *http.Request, try int)) *fakeNode {
	t.Helper()
	n := &fakeNode{socket: filepath.Join(t.TempDir(), "node.sock"), ahead: make(chan nodeapi.AheadRequest, 10)}
	l, err := net.Listen("unix", n.socket)
	must(t, err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.URL.Path == nodeapi.AheadPath {
			var req nodeapi.AheadRequest
			if err := json.Unmarshal(body, &req); err != nil {
				t.Error(err)
			}
			n.ahead <- req
			if handler != nil {
				handler(w, r, 0)
			}
			w.WriteHeader(http.StatusAccepted)
			return
		}
		var req nodeapi.NarRequest
		if err := json.Unmarshal(body, &req); err != nil {
			t.Error(err)
		}
		n.mu.Lock()
		n.nars = append(n.nars, req)
		try := len(n.nars)
		n.mu.Unlock()
		handler(w, r, try)
	}))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	m.o.Node = n.socket
	return n
}

func (n *fakeNode) asked() []nodeapi.NarRequest {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.nars
}

// give sends a nar, or the beginning of it, and cuts the connection after that.
func give(w http.ResponseWriter, nar []byte, n int) {
	w.Header().Set("Content-Length", strconv.Itoa(len(nar)))
	w.Header().Set(nodeapi.SourceHeader, "urn:eris:X from 3 peers")
	w.Write(nar[:n])
	if n < len(nar) {
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

func TestNode(t *testing.T) {
	server, other := newServer(t), newServer(t)
	it := newItem(t, "item", tree(t, 100_000), "zstd")
	server.add(t, it, key(t, 2)) // not authorized, but it agrees
	other.add(t, it, key(t, 1))
	m := newMachine(t, server.URL, other.URL)
	n := newNode(t, m, func(w http.ResponseWriter, _ *http.Request, _ int) { give(w, it.nar, len(it.nar)) })
	m.wantInstalled(m.substitute(it)[0], it)
	if got := m.source(); got != "urn:eris:X_from_3_peers" {
		t.Errorf("source %q", got)
	}
	if server.count("GET /nar/")+other.count("GET /nar/")+other.count("POST") > 0 {
		t.Error("a server was asked for more than narinfos")
	}
	asked := n.asked()
	if len(asked) != 1 || asked[0].Path != it.path.String() || len(asked[0].Narinfos) != 2 ||
		asked[0].Narinfos[0].Server != other.URL || asked[0].Narinfos[1].Server != server.URL ||
		asked[0].Narinfos[0].Text != string(it.narinfo(t, key(t, 1))) {
		t.Errorf("asked for %+v", asked)
	}
}

// TestFolderAndNode: a node is told nothing of an item of which only a folder has
// a narinfo that counts: it would keep another one.
func TestFolderAndNode(t *testing.T) {
	it := newItem(t, "item", tree(t, 100_000), "zstd")
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, it.path.Hash+".narinfo"), it.narinfo(t, key(t, 1)), 0o644))
	server := newServer(t)
	server.add(t, it, key(t, 2)) // not authorized, but it agrees
	m := newMachine(t, "file://"+dir, server.URL)
	n := newNode(t, m, func(w http.ResponseWriter, _ *http.Request, _ int) { give(w, it.nar, len(it.nar)) })
	m.query("info " + it.path.String())
	m.wantInstalled(m.substitute(it)[0], it)
	if asked := n.asked(); len(asked) > 0 || len(n.ahead) > 0 {
		t.Errorf("asked for %+v, and %d times ahead", asked, len(n.ahead))
	}
}

// TestHostileNode: a node that does not give the nar is one source less, and
// nothing wrong is installed.
func TestHostileNode(t *testing.T) {
	items := []*item{newItem(t, "one", tree(t, 50_000), "zstd"), newItem(t, "two", tree(t, 60_000), "zstd")}
	narOf := func(r int) []byte { return items[min(r, 2)-1].nar }
	wrong := func(nar []byte) []byte {
		nar = append([]byte(nil), nar...)
		nar[len(nar)/2] ^= 1
		return nar
	}
	for name, c := range map[string]struct {
		handler func(w http.ResponseWriter, r *http.Request, try int)
		asked   int // for two items
	}{
		"another nar":   {func(w http.ResponseWriter, _ *http.Request, try int) { give(w, wrong(narOf(try)), len(narOf(try))) }, 1},
		"another size":  {func(w http.ResponseWriter, _ *http.Request, try int) { give(w, narOf(try)[1:], len(narOf(try))-1) }, 2},
		"a bomb":        {func(w http.ResponseWriter, _ *http.Request, _ int) { give(w, make([]byte, 1<<20), 1<<20) }, 2},
		"no length":     {func(w http.ResponseWriter, _ *http.Request, try int) { w.(http.Flusher).Flush(); w.Write(narOf(try)) }, 2},
		"nobody has it": {func(w http.ResponseWriter, r *http.Request, _ int) { http.NotFound(w, r) }, 2},
		"all failed": {func(w http.ResponseWriter, _ *http.Request, _ int) {
			http.Error(w, "\x1b[31mfailed", http.StatusBadGateway)
		}, 2},
		"stalls at once": {func(_ http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() }, 1},
		"stalls later": {func(w http.ResponseWriter, r *http.Request, try int) {
			w.Header().Set("Content-Length", strconv.Itoa(len(narOf(try))))
			w.Write(narOf(try)[:2000])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t)
			for _, it := range items {
				server.add(t, it, key(t, 1))
			}
			m := newMachine(t, server.URL)
			m.o.Stall = 400 * time.Millisecond
			n := newNode(t, m, c.handler)
			process := m.open()
			m.wantInstalled(m.substituteBy(process, items[0])[0], items[0])
			m.wantNothingBut(m.substituteBy(process, items[1])[0], "success", items...)
			if got := len(n.asked()); got != c.asked {
				t.Errorf("asked %d times, want %d\n%s", got, c.asked, m.log.String())
			}
			if strings.Contains(m.messages.String(), "\x1b[31m") {
				t.Error("a node colours the terminal")
			}
		})
	}
}

// TestNodeLost: a node that is cut off is asked again, however often it gets
// further, and given up when it stays away or gets no further.
func TestNodeLost(t *testing.T) {
	it := newItem(t, "item", tree(t, 500_000), "zstd")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	n := newNode(t, m, func(w http.ResponseWriter, _ *http.Request, try int) {
		give(w, it.nar, min(try*len(it.nar)/4, len(it.nar)))
	})
	m.wantInstalled(m.substitute(it)[0], it)
	if got := len(n.asked()); got != 4 || server.count("GET /nar/") > 0 {
		t.Errorf("asked %d times", got)
	}

	m = newMachine(t, server.URL)
	m.o.NodeWait = time.Second
	n = newNode(t, m, func(w http.ResponseWriter, _ *http.Request, _ int) { give(w, it.nar, 1000) })
	m.wantInstalled(m.substitute(it)[0], it)
	if got := len(n.asked()); got < 3 || got > 8 || server.count("GET /nar/") != 1 {
		t.Errorf("asked %d times", got)
	}

	// The node goes in the middle, and does not come back.
	m = newMachine(t, server.URL)
	m.o.NodeWait = time.Second
	n = newNode(t, m, func(w http.ResponseWriter, _ *http.Request, _ int) {
		must(t, os.Remove(m.o.Node))
		give(w, it.nar, 1000)
	})
	m.wantInstalled(m.substitute(it)[0], it)
	if got := len(n.asked()); got != 1 {
		t.Errorf("asked %d times", got)
	}
}

// TestNoNode: a node that is not there costs nothing.
func TestNoNode(t *testing.T) {
	it := newItem(t, "item", tree(t, 1000), "zstd")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	stale := filepath.Join(t.TempDir(), "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o644))
	for name, socket := range map[string]string{"none": filepath.Join(t.TempDir(), "none"), "nobody listens": stale, "a file": file} {
		m := newMachine(t, server.URL)
		m.o.Node, m.o.NodeWait = socket, time.Hour
		m.wantInstalled(m.substitute(it)[0], it)
		if warned := strings.Contains(m.log.String(), "level=WARN"); warned != (name != "none") {
			t.Errorf("%s: warned: %v\n%s", name, warned, m.log.String())
		}
	}
}

// TestAhead: what a query found is told to the node after the reply, and a
// node that does not answer delays nothing.
func TestAhead(t *testing.T) {
	it, missing := newItem(t, "item", tree(t, 1000), "zstd"), newItem(t, "missing", tree(t, 2000), "zstd")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	n := newNode(t, m, nil)
	m.query("have " + it.path.String())
	m.query("info " + missing.path.String())
	m.query("info " + it.path.String() + " " + missing.path.String())
	if got := <-n.ahead; len(got.Narinfos) != 1 || got.Narinfos[0].Server != server.URL || got.Narinfos[0].Text != string(it.narinfo(t, key(t, 1))) {
		t.Errorf("told %+v", got)
	}
	if len(n.ahead) > 0 {
		t.Errorf("told %+v", <-n.ahead)
	}

	release := make(chan struct{})
	n = newNode(t, m, func(http.ResponseWriter, *http.Request, int) { <-release })
	s := m.start()
	requests, in := io.Pipe()
	out, replies := io.Pipe()
	ended := make(chan error)
	go func() { ended <- s.Query(t.Context(), requests, replies) }()
	reply := make([]byte, 4096)
	for range 3 { // the node still has the first
		_, err := io.WriteString(in, "info "+it.path.String()+"\n")
		must(t, err)
		size, err := out.Read(reply)
		must(t, err)
		if !strings.HasPrefix(string(reply[:size]), it.path.String()) {
			t.Errorf("reply %q", reply[:size])
		}
	}
	must(t, in.Close())
	must(t, <-ended)
	start := time.Now()
	must(t, s.Close())
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the end took %v", took)
	}
	close(release)
	if len(n.ahead) != 1 {
		t.Errorf("a node that does not answer was told %d times", len(n.ahead))
	}
}

// TestAheadGathers: what is found while the node is told goes into the next
// request.
func TestAheadGathers(t *testing.T) {
	server := newServer(t)
	m := newMachine(t, server.URL)
	var items []*item
	for k := range 4 {
		it := newItem(t, fmt.Sprintf("item-%d", k), tree(t, 1000+k), "zstd")
		server.add(t, it, key(t, 1))
		items = append(items, it)
	}
	release := make(chan struct{})
	n := newNode(t, m, func(http.ResponseWriter, *http.Request, int) { <-release })
	s := m.start()
	for _, it := range items {
		must(t, s.Query(t.Context(), strings.NewReader("info "+it.path.String()+"\n"), io.Discard))
	}
	first := <-n.ahead
	close(release)
	must(t, s.Close())
	second := <-n.ahead
	if len(first.Narinfos)+len(second.Narinfos) != len(items) || len(n.ahead) > 0 {
		t.Errorf("told %d, then %d, and %d times more, of %d", len(first.Narinfos), len(second.Narinfos), len(n.ahead), len(items))
	}
}
