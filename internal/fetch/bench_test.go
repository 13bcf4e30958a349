package fetch_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"testing"

	"ersatz/eris"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/fetch"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/n2r"
)

// served is a map of blocks that are served by batches.
type served = blocktest.Blocks

// BenchmarkLoopback decodes 2,000 leaves of 32 KiB over loopback: from one
// client without a mix, through a mix of one, and of two.
func BenchmarkLoopback(b *testing.B) {
	const n = 2000 * int64(eris.Size32KiB)
	s := served{}
	c, _, err := eris.Encode(io.LimitReader(rand.NewChaCha8([32]byte{}), n), eris.Size32KiB, eris.Secret{}, func(b eris.Block) error {
		s[b.Ref] = bytes.Clone(b.Data)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	hc := httpclient.New(httpclient.Options{})
	defer hc.CloseIdleConnections()
	var sources []fetch.Source
	for i := range 2 {
		srv := httptest.NewServer(n2r.Handler(s))
		defer srv.Close()
		client, err := n2r.New(srv.URL, hc)
		if err != nil {
			b.Fatal(err)
		}
		sources = append(sources, fetch.Source{Name: fmt.Sprint(i), Fetcher: client})
	}
	for name, source := range map[string]func() eris.Fetcher{
		"bare":       func() eris.Fetcher { return sources[0].Fetcher },
		"mix of one": func() eris.Fetcher { return fetch.New(sources[:1], fetch.Options{}) },
		"mix of two": func() eris.Fetcher { return fetch.New(sources, fetch.Options{}) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(n)
			b.ReportAllocs()
			for b.Loop() {
				r := eris.NewReader(b.Context(), c, source(), eris.ReaderOptions{})
				got, err := r.WriteTo(io.Discard)
				r.Close()
				if err != nil || got != n {
					b.Fatal(got, err)
				}
			}
		})
	}
}
