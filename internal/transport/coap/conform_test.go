package coap_test

import (
	"net"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/transport/coap"
	"ersatz/internal/transport/transporttest"
)

func TestTransport(t *testing.T) {
	for _, scheme := range schemes {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			tr := transporttest.Transport{
				Serve: func(t testing.TB, address string, blocks block.Getter, _ []eris.Ref) (string, func()) {
					if address == "" {
						address = "127.0.0.1:0"
					}
					return listen(t, scheme, address, coap.ServerOptions{}, coap.Resource{Path: coap.WellKnown, Blocks: blocks})
				},
				Dial: func(t testing.TB, address string, idle time.Duration) eris.Fetcher {
					return dial(t, scheme+"://"+address, coap.Options{Idle: idle})
				},
				Deaf: func(t testing.TB) string { return deaf(t, scheme) },
				Proxy: func(_ testing.TB, at string, via func(network, address string) string) string {
					if scheme == coap.SchemeTCP {
						return via("tcp", at)
					}
					return via("udp", at)
				},
			}
			transporttest.Run(t, tr)
			t.Run("faults", func(t *testing.T) { transporttest.Faults(t, tr) })
		})
	}
}

// deaf returns the address of a socket that nobody reads.
func deaf(t testing.TB, scheme string) string {
	if scheme == coap.SchemeTCP {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l.Addr().String()
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.LocalAddr().String()
}
