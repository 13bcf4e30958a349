package bitswap_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/transport/bitswap"
	"ersatz/internal/transport/transporttest"
)

// anyPort is where hosts of tests listen.
const anyPort = "/ip4/127.0.0.1/tcp/0"

// start starts a Host that ends with the test, or before.
func start(t testing.TB, lib block.Getter, o bitswap.Options) *bitswap.Host {
	t.Helper()
	h, err := bitswap.New(context.Background(), lib, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// open opens any content.
func open(t testing.TB, h *bitswap.Host, root eris.Ref) block.Session {
	t.Helper()
	s := h.Open(block.Wanted{ReadCap: eris.ReadCap{Root: root}})
	if s == nil {
		t.Fatal("no session")
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestTransport(t *testing.T) {
	tr := transporttest.Transport{
		Serve: func(t testing.TB, address string, blocks block.Getter, _ []eris.Ref) (string, func()) {
			// The same identity at the same address.
			listen, state, _ := strings.Cut(address, "|")
			if address == "" {
				listen, state = anyPort, t.TempDir()
			}
			listen, _, _ = strings.Cut(listen, "/p2p/")
			h := start(t, blocks, bitswap.Options{Listen: []string{listen}, State: state})
			return h.Addrs()[0] + "|" + state, func() {
				if err := h.Close(); err != nil {
					t.Error(err)
				}
			}
		},
		Dial: func(t testing.TB, address string, idle time.Duration) eris.Fetcher {
			address, _, _ = strings.Cut(address, "|")
			return open(t, start(t, nil, bitswap.Options{Peers: []string{address}, Idle: idle}), eris.Ref{})
		},
		Deaf: func(t testing.TB) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return multiaddrOf(t, l.Addr()) + "/p2p/" + start(t, nil, bitswap.Options{}).ID()
		},
		Proxy: func(t testing.TB, at string, via func(network, address string) string) string {
			at, _, _ = strings.Cut(at, "|")
			m, id, _ := strings.Cut(at, "/p2p/")
			address, err := manet.ToNetAddr(multiaddr.StringCast(m))
			if err != nil {
				t.Fatal(err)
			}
			proxy, err := net.ResolveTCPAddr("tcp", via("tcp", address.String()))
			if err != nil {
				t.Fatal(err)
			}
			return multiaddrOf(t, proxy) + "/p2p/" + id
		},
	}
	transporttest.Run(t, tr)
	t.Run("faults", func(t *testing.T) { transporttest.Faults(t, tr) })
}

func multiaddrOf(t testing.TB, a net.Addr) string {
	t.Helper()
	m, err := manet.FromNetAddr(a)
	if err != nil {
		t.Fatal(err)
	}
	return m.String()
}
