package n2r_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"ersatz/eris"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/n2r"
)

// TestPut wants the request that eris-nim's server takes, and any answer of
// success to count.
func TestPut(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 1<<10)
	ref := eris.BlockRef(data)
	for _, status := range []int{http.StatusOK, http.StatusCreated, http.StatusNoContent} {
		asked := 0
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			body, err := io.ReadAll(r.Body)
			if err != nil || !bytes.Equal(body, data) {
				t.Errorf("body of %d bytes, %v", len(body), err)
			}
			if r.Method != http.MethodPut || r.RequestURI != "/base/uri-res/N2R?urn:blake2b:"+ref.String() ||
				r.ContentLength != 1<<10 || r.Header.Get("Content-Type") != "application/octet-stream" {
				t.Errorf("%s %s, %v", r.Method, r.RequestURI, r.Header)
			}
			w.WriteHeader(status)
		}))
		if err := client(t, srv.URL+"/base").Put(t.Context(), ref, data); err != nil || asked != 1 {
			t.Errorf("status %d: %v, asked %d times", status, err, asked)
		}
		srv.Close()
	}
}

// TestPutRefused: a server that does not take it, one that leads elsewhere, and
// what is no block.
func TestPutRefused(t *testing.T) {
	data := make([]byte, 1<<10)
	for _, status := range []int{http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusTemporaryRedirect, http.StatusSeeOther, http.StatusInternalServerError} {
		asked := 0
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
		}))
		err := client(t, srv.URL).Put(t.Context(), eris.BlockRef(data), data)
		if err == nil || !strings.Contains(err.Error(), http.StatusText(status)) || asked != 1 {
			t.Errorf("status %d: %v, asked %d times", status, err, asked)
		}
		srv.Close()
	}
	c := client(t, "http://127.0.0.1:1")
	if err := c.Put(t.Context(), eris.BlockRef(data[:5]), data[:5]); !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("5 bytes: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Put(ctx, eris.BlockRef(data), data); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func client(t testing.TB, url string) *n2r.Client {
	t.Helper()
	hc := httpclient.New(httpclient.Options{})
	t.Cleanup(hc.CloseIdleConnections)
	c, err := n2r.New(url, hc)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
