package coap_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
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
	"golang.org/x/sync/errgroup"

	"ersatz/eris"
	"ersatz/internal/block/memstore"
	"ersatz/internal/transport/coap"
	"ersatz/internal/transport/transporttest"
)

// BenchmarkTransport fetches blocks over loopback: by our server and client, and
// by go-coap's own in a bare loop.
func BenchmarkTransport(b *testing.B) {
	s, refs := transporttest.Blocks(b, transporttest.Many)
	for _, scheme := range schemes {
		for _, flight := range []int{1, 4, 32} {
			b.Run(fmt.Sprintf("ersatz/%s, %d in flight", scheme, flight), func(b *testing.B) {
				host, _ := listen(b, scheme, "127.0.0.1:0", coap.ServerOptions{PerClient: 32}, coap.Resource{Path: coap.WellKnown, Blocks: s})
				transporttest.Measure(b, dial(b, scheme+"://"+host, coap.Options{InFlight: flight}), refs)
			})
			bare, most := refs, scheme == coap.SchemeTCP
			if scheme == coap.SchemeUDP && flight == 1 {
				// Its server keeps all answers for 247 s, looks through them for
				// each datagram, and gives old ones once the numbers of messages
				// begin anew.
				bare, most = refs[:100], true
			}
			if !most {
				continue
			}
			b.Run(fmt.Sprintf("bare/%s, %d in flight", scheme, flight), func(b *testing.B) {
				transporttest.Measure(b, fetchLibrary(library(b, scheme, s, int64(flight)), flight), bare)
			})
		}
	}
}

// conn is what the connections of go-coap have in common.
type conn interface {
	Get(ctx context.Context, path string, opts ...message.Option) (*pool.Message, error)
	ReleaseMessage(*pool.Message)
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

// fetchLibrary asks by a connection of the library.
func fetchLibrary(c conn, flight int) transporttest.Func {
	return func(ctx context.Context, refs []eris.Ref, got func(int, []byte) error) error {
		var work errgroup.Group
		work.SetLimit(flight)
		for i, ref := range refs {
			work.Go(func() error {
				resp, err := c.Get(ctx, coap.WellKnown+"/blocks", message.Option{ID: message.URIQuery, Value: ref[:]})
				if err != nil {
					return err
				}
				defer c.ReleaseMessage(resp)
				block, err := resp.ReadBody()
				if err != nil {
					return err
				}
				return got(i, block)
			})
		}
		return work.Wait()
	}
}
