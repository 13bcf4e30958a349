package nodeapi_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ersatz/internal/nodeapi"
	"ersatz/internal/transport/httpclient"
	"ersatz/narinfo"
)

// serve has a handler answer on a socket.
func serve(t *testing.T, h http.HandlerFunc) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return socket
}

func client(t *testing.T, socket string, idle time.Duration) *nodeapi.Client {
	c := nodeapi.New(socket, idle)
	t.Cleanup(c.Close)
	return c
}

func TestRequests(t *testing.T) {
	c := client(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		switch r.Method + " " + r.URL.Path {
		case "POST /v1/nar":
			var req nodeapi.NarRequest
			if err := json.Unmarshal(body, &req); err != nil || req.Path != "/p" || len(req.Narinfos) != 1 || req.Narinfos[0].Server != "http://s" {
				t.Errorf("%v, %+v", err, req)
			}
			w.Header().Set("Ersatz-Source", "a peer")
			w.Header().Set("Content-Length", "3")
			io.WriteString(w, "nar")
		case "POST /v1/ahead":
			if got := string(body); got != `{"narinfos":[{"server":"http://s","text":"t\n"}]}` {
				t.Errorf("ahead %s", got)
			}
			w.WriteHeader(http.StatusAccepted)
		case "GET /v1/peers":
			io.WriteString(w, `[{"name":"p","blocks":3}]`)
		case "GET /v1/status":
			io.WriteString(w, `{"share":"lan","kept":{"items":2},"new":1}`)
		default:
			t.Errorf("%s %s", r.Method, r.URL)
		}
	}), 0)
	given := []nodeapi.Narinfo{{Server: "http://s", Text: "t\n"}}
	nar, err := c.Nar(t.Context(), nodeapi.NarRequest{Path: "/p", Narinfos: given})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(nar)
	if err := errors.Join(err, nar.Close()); err != nil || string(got) != "nar" || nar.Size != 3 || nar.Source != "a peer" {
		t.Errorf("%q, %+v, %v", got, nar, err)
	}
	if err := c.Ahead(t.Context(), nodeapi.AheadRequest{Narinfos: given}); err != nil {
		t.Error(err)
	}
	if peers, err := c.Peers(t.Context()); err != nil || len(peers) != 1 || peers[0].Blocks != 3 {
		t.Errorf("%+v, %v", peers, err)
	}
	if s, err := c.Status(t.Context()); err != nil || s.Share != "lan" || s.Kept.Items != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if !strings.HasPrefix(c.String(), "unix:/") {
		t.Error(c)
	}
}

// TestHave asks in several requests for more than one takes.
func TestHave(t *testing.T) {
	short := false
	c := client(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		var req nodeapi.HaveRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil || r.URL.Path != "/v1/have" || len(req.NarHashes) > nodeapi.MaxHave {
			t.Errorf("%s, %d hashes, %v", r.URL, len(req.NarHashes), err)
		}
		claims := make([][]nodeapi.Claim, len(req.NarHashes))
		for i, h := range req.NarHashes {
			claims[i] = []nodeapi.Claim{{Peer: h, Part: true}}
		}
		if short {
			claims = claims[1:]
		}
		json.NewEncoder(w).Encode(claims)
	}), 0)
	hashes := make([][32]byte, nodeapi.MaxHave+3)
	for i := range hashes {
		hashes[i] = [32]byte{byte(i), byte(i >> 8)}
	}
	claims, err := c.Have(t.Context(), hashes)
	if err != nil || len(claims) != len(hashes) {
		t.Fatalf("%d claims, %v", len(claims), err)
	}
	for i, h := range hashes {
		if len(claims[i]) != 1 || claims[i][0].Peer != narinfo.FormatHash(h) || !claims[i][0].Part {
			t.Fatalf("claims about %d: %+v", i, claims[i])
		}
	}
	short = true
	if _, err := c.Have(t.Context(), hashes); err == nil || !strings.Contains(err.Error(), "about 1023 nars, not 1024") {
		t.Errorf("an answer that is too short: %v", err)
	}
	if claims, err := c.Have(t.Context(), nil); err != nil || len(claims) != 0 {
		t.Errorf("%v, %v", claims, err)
	}
}

func TestRefusals(t *testing.T) {
	var status int
	var text string
	c := client(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, text)
	}), 0)
	for _, x := range []struct {
		status int
		text   string
		none   bool
		want   string
	}{
		{404, "nobody: a, b\n", true, "nobody: a, b"},
		{502, "all failed", false, "502 Bad Gateway: all failed"},
		{403, strings.Repeat("x", 1<<20), false, "403 Forbidden: xxx"},
		{202, "", false, "202 Accepted"},
		{302, "", false, "302 Found"},
	} {
		status, text = x.status, x.text
		_, err := c.Nar(t.Context(), nodeapi.NarRequest{})
		if err == nil || errors.Is(err, nodeapi.ErrNone) != x.none || !strings.Contains(err.Error(), x.want) || len(err.Error()) > 70<<10 {
			t.Errorf("%d: %.100v", x.status, err)
		}
	}
	// Something else listens on the socket.
	status, text = 200, "<html>"
	if _, err := c.Status(t.Context()); err == nil {
		t.Error("a page is a status")
	}
	if err := c.Ahead(t.Context(), nodeapi.AheadRequest{}); err == nil {
		t.Error("a page accepts")
	}
	status = 500
	if _, err := c.Peers(t.Context()); err == nil {
		t.Error("an error is a list of peers")
	}
}

func TestNoNode(t *testing.T) {
	c := client(t, filepath.Join(t.TempDir(), "none"), 0)
	if _, err := c.Nar(t.Context(), nodeapi.NarRequest{}); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("no socket: %v", err)
	}
}

// TestCutAndStall: a nar that ends early is told from a whole one, and a node
// that sends nothing is not waited for for ever.
func TestCutAndStall(t *testing.T) {
	release := make(chan struct{})
	c := client(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "nar")
		http.NewResponseController(w).Flush()
		if !strings.Contains(string(body), "/cut") {
			<-release
		}
		panic(http.ErrAbortHandler)
	}), 500*time.Millisecond)
	read := func(path string) error {
		nar, err := c.Nar(t.Context(), nodeapi.NarRequest{Path: path, Narinfos: []nodeapi.Narinfo{}})
		if err != nil {
			return err
		}
		defer nar.Close()
		_, err = io.ReadAll(nar)
		return err
	}
	if err := read("/cut"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut: %v", err)
	}
	if err := read("/stalls"); !errors.Is(err, httpclient.ErrIdle) {
		t.Errorf("stalls: %v", err)
	}
	close(release)
}
