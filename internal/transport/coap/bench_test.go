package coap_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/message/pool"
	"github.com/plgd-dev/go-coap/v3/mux"
	coapnet "github.com/plgd-dev/go-coap/v3/net"
	"github.com/plgd-dev/go-coap/v3/options"
	"github.com/plgd-dev/go-coap/v3/tcp"
	"github.com/plgd-dev/go-coap/v3/udp"

	"ersatz/eris"
	"ersatz/internal/block/memstore"
	"ersatz/internal/transport/coap"
)

// many is how many blocks of 32 KiB a benchmark fetches.
const many = 2000

// fill returns a store of n blocks of 32 KiB and their references.
func fill(t testing.TB, n int) (*memstore.Store, []eris.Ref) {
	t.Helper()
	s := memstore.New()
	refs := make([]eris.Ref, n)
	b := make([]byte, eris.Size32KiB)
	for i := range refs {
		b[0], b[1] = byte(i), byte(i>>8)
		refs[i] = eris.BlockRef(b)
		if err := s.Put(context.Background(), refs[i], b); err != nil {
			t.Fatal(err)
		}
	}
	return s, refs
}

// BenchmarkFetch fetches 2,000 blocks over loopback, and verifies them.
func BenchmarkFetch(b *testing.B) {
	for _, scheme := range schemes {
		for _, flight := range []int{1, 4, 32} {
			b.Run(fmt.Sprintf("%s/%d", scheme, flight), func(b *testing.B) {
				s, refs := fill(b, many)
				host, _ := listen(b, scheme, "127.0.0.1:0", coap.ServerOptions{PerClient: 32}, coap.Resource{Path: coap.WellKnown, Blocks: s})
				c := dial(b, scheme+"://"+host, coap.Options{InFlight: flight})
				before := cpu(b)
				for b.Loop() {
					var n atomic.Int32
					err := c.Fetch(b.Context(), eris.Size32KiB, refs, func(i int, block []byte) error {
						if eris.BlockRef(block) != refs[i] {
							return eris.ErrCorrupt
						}
						n.Add(1)
						return nil
					})
					if err != nil || n.Load() != many {
						b.Fatal(n.Load(), err)
					}
				}
				report(b, before, many)
			})
		}
	}
}

// cpu returns how long this process has kept processors busy.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// report gives what a person sees, blocks per second, and what does not depend
// on what else the machine does: the time of both sides' processors per block.
func report(b *testing.B, before time.Duration, blocks int) {
	n := float64(b.N) * float64(blocks)
	b.ReportMetric(n/b.Elapsed().Seconds(), "blocks/s")
	b.ReportMetric(float64(cpu(b)-before)/n/1000, "cpu-µs/block")
}

// conn is what the connections of go-coap have in common.
type conn interface {
	Get(ctx context.Context, path string, opts ...message.Option) (*pool.Message, error)
	ReleaseMessage(*pool.Message)
}

// BenchmarkLibrary fetches blocks by go-coap's own server and connections, in
// a bare loop that verifies them: what BenchmarkFetch is measured against.
func BenchmarkLibrary(b *testing.B) {
	for _, c := range []struct {
		scheme         string
		flight, blocks int
	}{
		{coap.SchemeTCP, 1, many},
		{coap.SchemeTCP, 4, many},
		{coap.SchemeTCP, 32, many},
		// Its server keeps all answers for 247 s, looks through them for each
		// datagram, and gives old ones once the numbers of messages begin anew.
		{coap.SchemeUDP, 1, 500},
	} {
		b.Run(fmt.Sprintf("%s/%d", c.scheme, c.flight), func(b *testing.B) {
			s, refs := fill(b, c.blocks)
			conn := library(b, c.scheme, s, int64(c.flight))
			before := cpu(b)
			for b.Loop() {
				fetchLibrary(b, conn, refs, c.flight)
			}
			report(b, before, c.blocks)
		})
	}
}

// library starts go-coap's server and returns a connection to it.
func library(b *testing.B, scheme string, s *memstore.Store, flight int64) conn {
	r := mux.NewRouter()
	r.HandleFunc(coap.WellKnown+"/blocks", func(w mux.ResponseWriter, req *mux.Message) {
		query, err := req.Options().GetBytes(message.URIQuery)
		if err != nil {
			b.Error(err)
			return
		}
		block, err := s.Get(req.Context(), eris.Ref(query))
		if err != nil {
			b.Error(err)
			return
		}
		if err := w.SetResponse(codes.Content, message.AppOctets, bytes.NewReader(block)); err != nil {
			b.Error(err)
		}
	})
	limit := options.WithLimitClientEndpointParallelRequest(flight)
	all := options.WithLimitClientParallelRequest(flight)
	wait := options.WithBlockwise(true, 6, time.Minute)
	var work sync.WaitGroup
	b.Cleanup(work.Wait)
	switch scheme {
	case coap.SchemeTCP:
		l, err := coapnet.NewTCPListener("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		srv := tcp.NewServer(options.WithMux(r))
		work.Go(func() { srv.Serve(l) })
		b.Cleanup(srv.Stop)
		c, err := tcp.Dial(l.Addr().String(), limit, all)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		return c
	default:
		l, err := coapnet.NewListenUDP("udp4", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		srv := udp.NewServer(options.WithMux(r), wait)
		work.Go(func() { srv.Serve(l) })
		b.Cleanup(srv.Stop)
		c, err := udp.Dial(l.LocalAddr().(*net.UDPAddr).String(), limit, all, wait)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		return c
	}
}

func fetchLibrary(b *testing.B, c conn, refs []eris.Ref, flight int) {
	next := make(chan eris.Ref)
	var work sync.WaitGroup
	for range flight {
		work.Go(func() {
			buf := make([]byte, eris.Size32KiB)
			for ref := range next {
				resp, err := c.Get(context.Background(), coap.WellKnown+"/blocks", message.Option{ID: message.URIQuery, Value: ref[:]})
				if err != nil {
					b.Error(err)
					continue
				}
				if n, err := resp.Body().Read(buf); err != nil || eris.BlockRef(buf[:n]) != ref {
					b.Errorf("%d bytes, %v, %v", n, resp.Code(), err)
				}
				c.ReleaseMessage(resp)
			}
		})
	}
	for _, ref := range refs {
		next <- ref
	}
	close(next)
	work.Wait()
}
