package n2r_test

import (
	"bytes"
	"context"
	"io"
	"net/http/httptest"
	"testing"

	"ersatz/eris"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/n2r"
)

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
