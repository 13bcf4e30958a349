package n2r_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/transport/transporttest"
)

// batches is a store for a Handler, of one for single blocks.
type batches struct{ block.Getter }

func (b batches) Batch(ctx context.Context, refs []eris.Ref, emit func(int, []byte) error) error {
	for i, ref := range refs {
		data, err := b.Get(ctx, ref)
		if err != nil && !errors.Is(err, eris.ErrNotFound) {
			return err
		}
		if err := emit(i, data); err != nil {
			return err
		}
	}
	return nil
}

// TestTransport runs the suite with a server that knows batches, and with one
// as other implementations of ERIS are.
func TestTransport(t *testing.T) {
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"batches": func(h http.Handler) http.Handler { return h },
		"single blocks": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					http.NotFound(w, r)
					return
				}
				h.ServeHTTP(w, r)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr := transporttest.Transport{
				Serve: func(t testing.TB, address string, blocks block.Getter, _ []eris.Ref) (string, func()) {
					srv := httptest.NewUnstartedServer(wrap(n2r.Handler(batches{blocks})))
					if address != "" {
						l, err := net.Listen("tcp", address)
						if err != nil {
							t.Fatal(err)
						}
						srv.Listener.Close()
						srv.Listener = l
					}
					ctx, cancel := context.WithCancel(context.Background())
					srv.Config.BaseContext = func(net.Listener) context.Context { return ctx }
					srv.Start()
					stop := func() {
						cancel()
						srv.CloseClientConnections()
						srv.Close()
					}
					t.Cleanup(stop)
					return srv.Listener.Addr().String(), stop
				},
				Dial: func(t testing.TB, address string, idle time.Duration) eris.Fetcher {
					hc := httpclient.New(httpclient.Options{Idle: idle})
					t.Cleanup(hc.CloseIdleConnections)
					c, err := n2r.New("http://"+address, hc)
					if err != nil {
						t.Fatal(err)
					}
					return c
				},
				Deaf: func(t testing.TB) string {
					l, err := net.Listen("tcp", "127.0.0.1:0")
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { l.Close() })
					return l.Addr().String()
				},
				Proxy: func(_ testing.TB, at string, via func(network, address string) string) string { return via("tcp", at) },
			}
			transporttest.Run(t, tr)
			t.Run("faults", func(t *testing.T) { transporttest.Faults(t, tr) })
		})
	}
}
