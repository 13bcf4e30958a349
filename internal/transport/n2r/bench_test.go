package n2r_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"ersatz/eris"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/transport/transporttest"
)

// BenchmarkTransport fetches blocks over loopback: in batches, and one by one
// beside a bare loop around net/http.
func BenchmarkTransport(b *testing.B) {
	s, refs := transporttest.Blocks(b, transporttest.Many)
	h := n2r.Handler(batches{s})
	client := func(b *testing.B, h http.Handler) eris.Fetcher {
		srv := httptest.NewServer(h)
		b.Cleanup(srv.Close)
		hc := httpclient.New(httpclient.Options{})
		b.Cleanup(hc.CloseIdleConnections)
		c, err := n2r.New(srv.URL, hc)
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	b.Run("ersatz/batches", func(b *testing.B) { transporttest.Measure(b, client(b, h), refs) })
	b.Run("ersatz/single blocks", func(b *testing.B) {
		transporttest.Measure(b, client(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				http.NotFound(w, r)
				return
			}
			h.ServeHTTP(w, r)
		})), refs)
	})
	b.Run("bare/single blocks", func(b *testing.B) {
		srv := httptest.NewServer(h)
		b.Cleanup(srv.Close)
		transporttest.Measure(b, transporttest.BareHTTP(b, http.MethodGet, func(ref eris.Ref) string {
			return srv.URL + "/uri-res/N2R?urn:blake2b:" + ref.String()
		}), refs)
	})
}

// BenchmarkBatches fetches 2,000 blocks of 32 KiB over loopback by batches of
// 32, one after the other, and verifies nothing: what the line gives. The
// mix in internal/fetch is measured against the same.
func BenchmarkBatches(b *testing.B) {
	s := store{}
	var refs []eris.Ref
	data := make([]byte, eris.Size32KiB)
	for i := range 2000 {
		data[0], data[1] = byte(i), byte(i>>8)
		ref := eris.BlockRef(data)
		s[ref] = bytes.Clone(data)
		refs = append(refs, ref)
	}
	srv := httptest.NewServer(n2r.Handler(s))
	defer srv.Close()
	hc := httpclient.New(httpclient.Options{})
	defer hc.CloseIdleConnections()
	c, err := n2r.New(srv.URL, hc)
	if err != nil {
		b.Fatal(err)
	}
	var bare eris.Fetcher = c
	b.SetBytes(int64(len(refs)) * int64(eris.Size32KiB))
	b.ReportAllocs()
	for b.Loop() {
		for i := 0; i < len(refs); i += 32 {
			part := refs[i:min(i+32, len(refs))]
			n := 0
			err := bare.Fetch(context.Background(), eris.Size32KiB, part, func(_ int, block []byte) error {
				n++
				_, err := io.Discard.Write(block)
				return err
			})
			if err != nil || n != len(part) {
				b.Fatal(n, err)
			}
		}
	}
}
