package noded

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/discover"
	"ersatz/internal/keep"
	"ersatz/internal/node"
	"ersatz/internal/nodeapi"
	"ersatz/internal/transport/peer"
	"ersatz/internal/upstream"
	"ersatz/internal/votes"
)

// serve runs a service on loopback and on a Unix socket until stop, or the end
// of the test.
func serve(t *testing.T, s *Service) (url, socket string, stop func()) {
	t.Helper()
	return serveOn(t, s, listen(t, "tcp", "127.0.0.1:0"))
}

func serveOn(t *testing.T, s *Service, tcp net.Listener) (url, socket string, stop func()) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	unix := listen(t, "unix", socket)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, []net.Listener{tcp}, []net.Listener{unix}) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return "http://" + tcp.Addr().String(), socket, stop
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func open(t *testing.T, dir string, o Options) *Service {
	t.Helper()
	s, err := Open(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func get(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, res.Status, err)
	}
	return string(text)
}

// TestFaces wants each face to answer, and the folder to be free in the end.
func TestFaces(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{Node: node.Options{Version: "1.2.3"}})
	if _, err := Open(t.Context(), dir, Options{}); !errors.Is(err, keep.ErrLocked) {
		t.Errorf("a second service of one folder: %v", err)
	}
	url, socket, stop := serve(t, s)
	if got := get(t, url+"/healthz"); got != "ok\n" {
		t.Errorf("healthz %q", got)
	}
	c := nodeapi.New(socket, 0)
	defer c.Close()
	if st, err := c.Status(t.Context()); err != nil || st.Share != "none" || st.Version != "1.2.3" || st.State != dir {
		t.Errorf("%+v, %v", st, err)
	}
	figures := get(t, url+"/metrics")
	for _, want := range []string{
		`ersatz_build_info{version="1.2.3"} 1`, "ersatz_http_requests_total{", "ersatz_kept_items", "ersatz_transfers_total{", "ersatz_upstream_narinfos_total{",
	} {
		if !strings.Contains(figures, want) {
			t.Errorf("no %s in\n%s", want, figures)
		}
	}
	stop()
	if _, err := http.Get(url + "/healthz"); err == nil {
		t.Error("it answers after its end")
	}
	if err := open(t, dir, Options{}).Close(); err != nil {
		t.Error(err)
	}
}

// TestPeers has a peer say what it holds, and the narinfo of an item.
func TestPeers(t *testing.T) {
	nar := sha256.Sum256([]byte("a nar"))
	held := peer.Held{ReadCap: eris.ReadCap{Size: eris.Size1KiB, Root: eris.Ref{1}}, Format: "application/x-nix-archive"}
	asked := make(chan string, 10)
	mux := http.NewServeMux()
	mux.Handle(peer.HavePath, peer.Handler(func(_ context.Context, h [32]byte) *peer.Held {
		if h != nar {
			return nil
		}
		return &held
	}))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		http.NotFound(w, r)
	})
	other := httptest.NewServer(mux)
	defer other.Close()

	url, socket, _ := serve(t, open(t, t.TempDir(), Options{Peers: []string{other.URL}}))
	c := nodeapi.New(socket, 0)
	defer c.Close()
	if list, err := c.Peers(t.Context()); err != nil || len(list) != 1 || list[0].URL != other.URL || !list[0].Named {
		t.Errorf("%+v, %v", list, err)
	}
	claims, err := c.Have(t.Context(), [][32]byte{{7}, nar})
	want := nodeapi.Claim{Peer: other.URL, URN: held.ReadCap.URN(), Format: held.Format}
	if err != nil || len(claims) != 2 || len(claims[0]) != 0 || len(claims[1]) != 1 || claims[1][0] != want {
		t.Errorf("%+v, %v", claims, err)
	}
	path := "/khaaib6s836bk5kbik239hlk6n6ianc4.narinfo"
	res, err := http.Get(url + path)
	if err != nil || res.StatusCode != http.StatusNotFound {
		t.Fatalf("%v, %v", res, err)
	}
	res.Body.Close()
	if len(asked) != 1 || <-asked != path {
		t.Error("the peer was not asked for the narinfo")
	}
}

// found is a browser that has found one peer.
type found struct {
	url  string
	kind discover.Kind
}

func (f found) Peers() []discover.Peer {
	return []discover.Peer{{Name: "ersatz-x", Kind: f.kind, URL: f.url, Seen: time.Now()}}
}

func (f found) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// TestWhoGivesNarinfos: where every narinfo counts, only peers that were named
// are asked for them.
func TestWhoGivesNarinfos(t *testing.T) {
	s := open(t, t.TempDir(), Options{Peers: []string{"http://127.0.0.1:1"}, Browser: found{"http://127.0.0.1:2", discover.Node}})
	defer s.Close()
	for _, c := range []struct {
		o    node.Options
		want int
	}{
		{node.Options{}, 1},
		{node.Options{Keys: func() (node.Keys, error) { return node.Keys{}, nil }}, 2},
		{node.Options{Votes: func() (votes.Policy, error) { return votes.Policy{}, nil }}, 2},
	} {
		s.usePeers(&c.o)
		if got := c.o.PeerServers(); len(got) != c.want || got[len(got)-1].String() != "http://127.0.0.1:1" {
			t.Errorf("%v are asked, not %d", got, c.want)
		}
	}
}

// TestOptions: an option that cannot be used is told from what may pass, and
// leaves the folder free.
func TestOptions(t *testing.T) {
	info := func(dir string) *upstream.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "StoreDir: "+dir+"\n") }))
		t.Cleanup(s.Close)
		sv, err := upstream.ParseServer(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		return sv
	}
	dir := t.TempDir()
	for _, o := range []Options{
		{Peers: []string{"ftp://peer"}},
		{Peers: []string{"http://peer", "http://peer/"}},
		{Servers: []*upstream.Server{info("/gnu/store"), info("/srv/store")}},
	} {
		s, err := Open(t.Context(), dir, o)
		var option *OptionError
		if s != nil || !errors.As(err, &option) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if err := open(t, dir, Options{}).Close(); err != nil {
		t.Error(err)
	}
	_, err := Open(t.Context(), "/proc/none", Options{})
	var option *OptionError
	if err == nil || errors.As(err, &option) {
		t.Errorf("a folder that cannot be: %v", err)
	}
}
