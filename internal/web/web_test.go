package web

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		path   string
		want   []string
		status int
	}{
		{"/", nil, http.StatusOK},
		{"//nar//zstd/", []string{"nar", "zstd"}, http.StatusOK},
		{"/nar/gtk%2B%20x", []string{"nar", "gtk+ x"}, http.StatusOK},
		{"/nar/..", nil, http.StatusBadRequest},
		{"/nar/%2e%2E", nil, http.StatusBadRequest},
		{"/./nar", nil, http.StatusBadRequest},
		{"/nar/a%2fb", nil, http.StatusBadRequest},
		{"/nar/a%00", nil, http.StatusBadRequest},
		{"/" + strings.Repeat("a", MaxPath-1), []string{strings.Repeat("a", MaxPath-1)}, http.StatusOK},
		{"/" + strings.Repeat("a", MaxPath), nil, http.StatusRequestURITooLong},
	} {
		u, err := url.Parse("http://x" + c.path)
		if err != nil {
			t.Fatal(err)
		}
		if parts, status := split(u); !slices.Equal(parts, c.want) || status != c.status {
			t.Errorf("%.40q: %.40q, %d", c.path, parts, status)
		}
	}
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		method, path string
		want         []string
		status       int
	}{
		{http.MethodGet, "/nar/x", []string{"nar", "x"}, http.StatusOK},
		{http.MethodHead, "/", nil, http.StatusOK},
		{http.MethodPost, "/nar/x", nil, http.StatusMethodNotAllowed},
		{http.MethodGet, "/nar/..", nil, http.StatusBadRequest},
	} {
		w := httptest.NewRecorder()
		parts, ok := Read(w, httptest.NewRequest(c.method, c.path, nil))
		if !slices.Equal(parts, c.want) || ok != (c.status == http.StatusOK) || w.Code != c.status {
			t.Errorf("%s %s: %q, %t, %d", c.method, c.path, parts, ok, w.Code)
		}
		if got := w.Header().Get("Allow"); (got == "GET, HEAD") != (c.status == http.StatusMethodNotAllowed) {
			t.Errorf("%s %s: Allow is %q", c.method, c.path, got)
		}
	}
}

func TestAnswers(t *testing.T) {
	ask := func(method string, ttl time.Duration) *http.Response {
		w := httptest.NewRecorder()
		NotFound(w, httptest.NewRequest(method, "/a%2Bb", nil), ttl)
		return w.Result()
	}
	got := ask(http.MethodGet, 90*time.Second)
	body, err := io.ReadAll(got.Body)
	if err != nil || got.StatusCode != http.StatusNotFound || string(body) != "Resource not found: /a%2Bb" {
		t.Errorf("%s, %q, %v", got.Status, body, err)
	}
	if h := got.Header; h.Get("Cache-Control") != "max-age=90" || h.Get("Content-Type") != "text/plain;charset=utf-8" {
		t.Errorf("%v", h)
	}
	got = ask(http.MethodHead, 0)
	if body, err := io.ReadAll(got.Body); err != nil || len(body) > 0 || got.Header.Get("Content-Length") != "26" || got.Header.Get("Cache-Control") != "" {
		t.Errorf("HEAD: %q, %v, %v", body, got.Header, err)
	}
	if s := Clip(strings.Repeat("x", 200)); len(s) > 110 || Clip("short") != "short" {
		t.Errorf("clipped to %q", s)
	}
}

// TestServe wants an answer, and an end when the context ends: all connections
// are gone then.
func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, []net.Listener{l}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			Plain(w, r, http.StatusOK, "here")
		}), slog.New(slog.DiscardHandler))
	}()
	resp, err := http.Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "here" {
		t.Errorf("%q, %v", body, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listener after the end: %v", err)
	}
}
