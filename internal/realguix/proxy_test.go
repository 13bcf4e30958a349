package realguix

import (
	"bytes"
	"encoding/binary"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"ersatz/guixsig"
	"ersatz/narinfo"
)

// proxy stands in front of a good server and spoils what it says.
type proxy struct {
	URL string

	mu    sync.Mutex
	paths []string // that were asked for and not refused
}

// spoiler changes a response; refusing it means that the proxy answers 404.
type spoiler func(res *http.Response) (refuse bool)

func newProxy(t *testing.T, target string, spoil spoiler) *proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{}
	rp := httputil.NewSingleHostReverseProxy(u)
	rp.FlushInterval = -1
	rp.ModifyResponse = func(res *http.Response) error {
		if spoil(res) {
			res.Body.Close()
			res.StatusCode, res.Status, res.Header = http.StatusNotFound, "404 Not Found", http.Header{}
			setBody(res, nil)
			return nil
		}
		p.mu.Lock()
		p.paths = append(p.paths, res.Request.URL.Path)
		p.mu.Unlock()
		return nil
	}
	// The client hangs up at will.
	rp.ErrorLog = log.New(io.Discard, "", 0)
	rp.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	s := httptest.NewServer(rp)
	t.Cleanup(s.Close)
	p.URL = s.URL
	return p
}

// served returns the paths that were asked for and not refused.
func (p *proxy) served() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.paths...)
}

func setBody(res *http.Response, body []byte) {
	res.Body = io.NopCloser(bytes.NewReader(body))
	res.ContentLength = int64(len(body))
	res.Header.Set("Content-Length", strconv.Itoa(len(body)))
}

// What is asked for.
func isNarinfo(res *http.Response) bool {
	return strings.HasSuffix(res.Request.URL.Path, ".narinfo") && res.StatusCode == http.StatusOK
}

func isNar(res *http.Response) bool { return strings.HasPrefix(res.Request.URL.Path, "/nar/") }

func isBatch(res *http.Response) bool { return res.Request.URL.Path == "/eris/blocks" }

func isBlock(res *http.Response) bool {
	return isBatch(res) || strings.HasPrefix(res.Request.URL.Path, "/uri-res/")
}

// only lets narinfos through, and what else a test names.
func only(also ...func(*http.Response) bool) spoiler {
	return func(res *http.Response) bool {
		for _, ok := range also {
			if ok(res) {
				return false
			}
		}
		return !isNarinfo(res)
	}
}

// editNarinfo changes the text of narinfos.
func editNarinfo(edit func(text string) string) spoiler {
	return func(res *http.Response) bool {
		if isNarinfo(res) {
			text, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil {
				return true
			}
			setBody(res, []byte(edit(string(text))))
		}
		return false
	}
}

// resigned returns a narinfo signed by another key.
func resigned(t *testing.T, text string, key *guixsig.PrivateKey) string {
	body, rest, ok := strings.Cut(text, "Signature: ")
	_, locations, _ := strings.Cut(rest, "\n")
	signed, err := narinfo.SignGuix([]byte(body), key, "evil.example.org")
	if !ok || err != nil {
		t.Errorf("cannot sign %q: %v", text, err)
	}
	return string(signed) + locations
}

// lie turns a bit in each block, and refuses nars.
func lie(res *http.Response) bool {
	if isNar(res) {
		return true
	}
	if !isBlock(res) || res.StatusCode != http.StatusOK {
		return false
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		return true
	}
	for rest := body; len(rest) > 0; {
		n := len(rest)
		if isBatch(res) { // frames: a length, then so many bytes
			n = int(binary.BigEndian.Uint32(rest))
			rest = rest[4:]
		}
		if n > 0 {
			rest[n/2] ^= 1
		}
		rest = rest[n:]
	}
	setBody(res, body)
	return false
}

// truncate cuts nars in the middle, and refuses blocks.
func truncate(res *http.Response) bool {
	if isNar(res) && res.StatusCode == http.StatusOK {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, res.ContentLength/2), res.Body}
	}
	return isBlock(res)
}

// gate lets about n bytes of blocks and nars pass, all together, says so, and
// holds the rest back until it is opened.
type gate struct {
	mu      sync.Mutex
	left    int
	reached chan struct{} // closed when the bytes have passed
	open    chan struct{} // closed by the test
}

func newGate(n int) *gate {
	return &gate{left: n, reached: make(chan struct{}), open: make(chan struct{})}
}

func (g *gate) spoil(res *http.Response) bool {
	if isNar(res) || isBlock(res) {
		res.Body = &gated{gate: g, body: res.Body, gone: res.Request.Context().Done()}
	}
	return false
}

type gated struct {
	gate *gate
	body io.ReadCloser
	gone <-chan struct{}
}

func (b *gated) Read(p []byte) (int, error) {
	if b.gate.shut() {
		select {
		case <-b.gate.open:
		case <-b.gone:
			return 0, io.ErrUnexpectedEOF
		}
	}
	n, err := b.body.Read(p)
	b.gate.passed(n)
	return n, err
}

func (b *gated) Close() error { return b.body.Close() }

func (g *gate) shut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.left <= 0
}

func (g *gate) passed(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if before := g.left; before > 0 {
		if g.left -= n; g.left <= 0 {
			close(g.reached)
		}
	}
}
