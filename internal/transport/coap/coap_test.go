package coap_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/memstore"
	"ersatz/internal/transport/coap"
)

// key is what the two sides know in all tests of DTLS.
var key = coap.Key{Identity: "tester", Secret: []byte("not a secret")}

// schemes are the three ways.
var schemes = []string{coap.SchemeTCP, coap.SchemeUDP, coap.SchemeDTLS}

// listen serves stores at an address of its own until the test ends, or stop is
// called, and returns the address.
func listen(t testing.TB, scheme, address string, o coap.ServerOptions, stores ...coap.Resource) (host string, stop func()) {
	t.Helper()
	s, err := coap.NewServer(stores, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	serve := func(f func() error) {
		work.Go(func() {
			if err := f(); err != nil {
				t.Errorf("server: %v", err)
			}
		})
	}
	switch scheme {
	case coap.SchemeTCP:
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		host = l.Addr().String()
		serve(func() error { return s.ServeTCP(ctx, l) })
	case coap.SchemeUDP:
		conn, err := net.ListenPacket("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		host = conn.LocalAddr().String()
		serve(func() error { return s.ServeUDP(ctx, conn.(*net.UDPConn)) })
	case coap.SchemeDTLS:
		l, err := coap.ListenDTLS("udp", address, map[string][]byte{key.Identity: key.Secret})
		if err != nil {
			t.Fatal(err)
		}
		host = l.Addr().String()
		serve(func() error { return s.ServeDTLS(ctx, l) })
	}
	stop = func() { cancel(); work.Wait() }
	t.Cleanup(stop)
	return host, stop
}

// dial returns a client.
func dial(t testing.TB, url string, o coap.Options) *coap.Client {
	t.Helper()
	if strings.HasPrefix(url, "coaps:") {
		o.Key = key
	}
	c, err := coap.New(url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// both serves a new store and returns a client of it that may do all.
func both(t testing.TB, scheme string, o coap.Options) (*memstore.Store, *coap.Client) {
	t.Helper()
	s := memstore.New()
	host, _ := listen(t, scheme, "127.0.0.1:0", coap.ServerOptions{}, coap.Resource{Path: coap.WellKnown, Blocks: s, Sink: s})
	return s, dial(t, scheme+"://"+host+"?get&put", o)
}

// fetch returns what a client gets, verified.
func fetch(ctx context.Context, c eris.Fetcher, size eris.BlockSize, refs []eris.Ref) (map[int][]byte, error) {
	var mu sync.Mutex
	got := map[int][]byte{}
	err := c.Fetch(ctx, size, refs, func(i int, b []byte) error {
		if len(b) != int(size) || eris.BlockRef(b) != refs[i] {
			return eris.ErrCorrupt
		}
		mu.Lock()
		defer mu.Unlock()
		got[i] = bytes.Clone(b)
		return nil
	})
	return got, err
}

// TestContents puts and gets whole contents, all ways.
func TestContents(t *testing.T) {
	for _, scheme := range schemes {
		for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
			t.Run(scheme+" "+size.String(), func(t *testing.T) {
				s, c := both(t, scheme, coap.Options{})
				content := make([]byte, 300_000)
				rand.NewChaCha8([32]byte{1}).Read(content)
				n := 0
				rc, _, err := eris.Encode(bytes.NewReader(content), size, eris.Secret{}, func(b eris.Block) error {
					n++
					return c.Put(t.Context(), b.Ref, b.Data)
				})
				if err != nil {
					t.Fatal(err)
				}
				if s.Len() != n {
					t.Errorf("%d of %d blocks arrived", s.Len(), n)
				}
				r := eris.NewReader(t.Context(), rc, c, eris.ReaderOptions{})
				defer r.Close()
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		}
	}
}

// TestGranted: neither side does what the other's URL, or its own, does not
// allow.
func TestGranted(t *testing.T) {
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	for _, scheme := range schemes {
		t.Run(scheme, func(t *testing.T) {
			s := memstore.New()
			if err := s.Put(t.Context(), ref, b); err != nil {
				t.Fatal(err)
			}
			host, _ := listen(t, scheme, "127.0.0.1:0", coap.ServerOptions{},
				coap.Resource{Path: coap.WellKnown, Blocks: s}, coap.Resource{Path: "/store/secret", Sink: s})
			base := scheme + "://" + host
			if got, err := fetch(t.Context(), dial(t, base, coap.Options{}), eris.Size1KiB, []eris.Ref{ref}); err != nil || len(got) != 1 {
				t.Errorf("get: %d blocks, %v", len(got), err)
			}
			seed := uint64(1)
			for url, want := range map[string]string{
				base + "?put":               "4.05",
				base + "/store/guessed?put": "4.04",
				base + "/store?put":         "4.04",
				base + "?get":               coap.ErrNotGranted.Error(),
				base + "/store/secret?put":  "",
			} {
				seed++
				other, b := blocktest.Make(eris.Size1KiB, seed)
				err := dial(t, url, coap.Options{}).Put(t.Context(), other, b)
				if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
					t.Errorf("put to %s: %v, want %q", url, err, want)
				}
				if want != "" {
					if _, err := s.Get(t.Context(), other); !errors.Is(err, eris.ErrNotFound) {
						t.Errorf("put to %s arrived", url)
					}
				}
			}
			var status *coap.StatusError
			if _, err := fetch(t.Context(), dial(t, base+"/store/secret?get", coap.Options{}), eris.Size1KiB, []eris.Ref{ref}); !errors.As(err, &status) {
				t.Errorf("get from a store that takes only: %v", err)
			}
			if _, err := fetch(t.Context(), dial(t, base+"?put", coap.Options{}), eris.Size1KiB, []eris.Ref{ref}); !errors.Is(err, coap.ErrNotGranted) {
				t.Errorf("get by a URL that does not grant it: %v", err)
			}
		})
	}
}

// TestWrongKey: a client without the right key gets nothing, soon.
func TestWrongKey(t *testing.T) {
	s := memstore.New()
	host, _ := listen(t, coap.SchemeDTLS, "127.0.0.1:0", coap.ServerOptions{}, coap.Resource{Path: coap.WellKnown, Blocks: s})
	for name, k := range map[string]coap.Key{
		"secret":   {Identity: key.Identity, Secret: []byte("guessed")},
		"identity": {Identity: "other", Secret: key.Secret},
	} {
		c, err := coap.New("coaps://"+host, coap.Options{Key: k, Idle: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := fetch(t.Context(), c, eris.Size1KiB, []eris.Ref{{1}}); err == nil {
			t.Errorf("other %s: no error", name)
		}
	}
	if _, err := coap.New("coaps://"+host, coap.Options{}); err == nil {
		t.Error("coaps without a key")
	}
	if _, err := coap.New("coap://"+host, coap.Options{Key: key}); err == nil {
		t.Error("a key that protects nothing")
	}
}
