package stores

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/eriscbor"
	"ersatz/internal/block"
	"ersatz/internal/block/spool"
	"ersatz/internal/fetch"
	"ersatz/internal/torrent"
	"ersatz/internal/transport/bittorrent"
	"ersatz/internal/transport/gnunet/gnunettest"
	"ersatz/internal/transport/ipfs/kubotest"
	"ersatz/internal/transport/ndn/ndntest"
)

// library is a content of 300 KiB and what it is made of.
type library struct {
	*spool.Spool
	shared  block.Shared
	content []byte
}

func newLibrary(t testing.TB) library {
	t.Helper()
	const size = eris.Size32KiB
	s, err := spool.New(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	content := make([]byte, 300<<10)
	rand.NewChaCha8([32]byte{1}).Read(content)
	c, n, err := eris.Encode(bytes.NewReader(content), size, eris.Secret{}, s.Add)
	if err != nil {
		t.Fatal(err)
	}
	l := library{s, block.Shared{ReadCap: c, Length: n}, content}
	s.Finish(l.shared)
	return l
}

func mustParse(t testing.TB, list ...string) []URL {
	t.Helper()
	urls, others, err := ParseList(strings.Join(list, " "))
	if err != nil || len(others) > 0 {
		t.Fatal(others, err)
	}
	return urls
}

// start opens a plan and runs it until the test ends.
func start(t testing.TB, p Plan, o Options) *Set {
	t.Helper()
	s, err := Open(t.Context(), p, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ran, s.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// wantContent fetches the content from the sources of s.
func wantContent(t testing.TB, s *Set, l library) {
	t.Helper()
	wantFrom(t, s, l, block.Wanted{ReadCap: l.shared.ReadCap})
}

func wantFrom(t testing.TB, s *Set, l library, w block.Wanted) {
	t.Helper()
	where := eris.NewLocator(w.ReadCap)
	w.Where = where.Where
	var sources []fetch.Source
	for _, n := range s.Sources() {
		src, session, ok := n.Open(w)
		if !ok {
			t.Fatalf("%s cannot have it", n.Name)
		}
		defer session.Close()
		sources = append(sources, src)
	}
	r := eris.NewReader(t.Context(), l.shared.ReadCap, where.Watch(fetch.New(sources, fetch.Options{})), eris.ReaderOptions{})
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, l.content) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(l.content), err)
	}
}

// tally is a Limiter that counts.
type tally struct{ n atomic.Int64 }

func (l *tally) WaitN(_ context.Context, n int) error {
	l.n.Add(int64(n))
	return nil
}

// TestServe has each kind of listener give a content to a client of the URL, at
// the rate that the Limiter allows, and to nobody who has another path or key.
func TestServe(t *testing.T) {
	key, other := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "other")
	for name, text := range map[string]string{key: "0123456789abcdef\n", other: "fedcba9876543210\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ url, wrong string }{
		{url: "http://127.0.0.1:0"},
		{url: "coap+tcp://127.0.0.1:0/path", wrong: "coap+tcp://127.0.0.1:0/other"},
		{url: "coap://127.0.0.1:0"},
		{url: "coaps://127.0.0.1:0?identity=me&key-file=" + key, wrong: "coaps://127.0.0.1:0?identity=me&key-file=" + other},
	} {
		t.Run(c.url[:5], func(t *testing.T) {
			t.Parallel()
			l, limit := newLibrary(t), &tally{}
			serving := start(t, Plan{Serve: mustParse(t, c.url)}, Options{Library: l, Limiter: limit})
			listeners := serving.Listeners()
			if len(listeners) != 1 || len(serving.Sinks()) != 0 {
				t.Fatalf("listeners %v, sinks %v", listeners, serving.Sinks())
			}
			at := func(url string) string {
				return strings.Replace(url, "127.0.0.1:0", listeners[0].Addr.String(), 1)
			}
			client := start(t, Plan{From: mustParse(t, at(c.url))}, Options{})
			wantContent(t, client, l)
			if n := limit.n.Load(); n < int64(len(l.content)) {
				t.Errorf("the limiter was told of %d bytes of %d", n, len(l.content))
			}
			if c.wrong == "" {
				return
			}
			stranger := start(t, Plan{From: mustParse(t, at(c.wrong))}, Options{})
			src, _, _ := stranger.Sources()[0].Open(block.Wanted{ReadCap: l.shared.ReadCap})
			// To a wrong key of DTLS, nobody says anything.
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			src.Fetcher.Fetch(ctx, eris.Size32KiB, []eris.Ref{l.shared.ReadCap.Root}, func(int, []byte) error {
				t.Error("a stranger got a block")
				return nil
			})
		})
	}
}

// TestClose frees what a Set holds whose Run was never called.
func TestClose(t *testing.T) {
	l := newLibrary(t)
	s, err := Open(t.Context(), Plan{Serve: mustParse(t, "http://127.0.0.1:0", "coap+tcp://127.0.0.1:0", "coap://127.0.0.1:0")}, Options{Library: l})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, at := range s.Listeners() {
		if at.Addr.Network() != "tcp" {
			c, err := net.ListenPacket("udp", at.Addr.String())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			continue
		}
		l, err := net.Listen("tcp", at.Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
}

// TestFiles puts to a folder, serves to another, and reads both and a bundle.
func TestFiles(t *testing.T) {
	l, dir := newLibrary(t), t.TempDir()
	set := start(t, Plan{To: mustParse(t, "file://"+dir+"/put"), Serve: mustParse(t, "file://"+dir+"/served")}, Options{Library: l})
	content, err := l.Open(t.Context(), l.shared.ReadCap.Root)
	if err != nil {
		t.Fatal(err)
	}
	var bundle bytes.Buffer
	w := eriscbor.NewWriter(&bundle)
	for i := range content.Len() {
		ref, b, err := content.Block(t.Context(), i)
		if err == nil {
			err = errors.Join(set.Putters()[0].Put(t.Context(), ref, b), w.Block(ref, b))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Finish(l.shared.ReadCap), os.WriteFile(dir+"/bundle", bundle.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	offer(t, set, l)
	for _, name := range []string{"put", "served", "bundle"} {
		wantContent(t, start(t, Plan{From: mustParse(t, "file://"+dir+"/"+name)}, Options{}), l)
	}
	for _, p := range []Plan{
		{From: mustParse(t, "file://"+dir+"/none")},
		{To: mustParse(t, "file://"+dir+"/bundle")},
		{From: mustParse(t, "file:///dev/null")},
	} {
		if _, err := Open(t.Context(), p, Options{}); err == nil || !strings.Contains(err.Error(), "file:///") {
			t.Errorf("%v: %v", p, err)
		}
	}
}

// offer offers the content to all sinks.
func offer(t testing.TB, set *Set, l library) {
	t.Helper()
	open := func(ctx context.Context) (block.Content, error) { return l.Open(ctx, l.shared.ReadCap.Root) }
	if len(set.Sinks()) == 0 {
		t.Fatal("no sinks")
	}
	for _, k := range set.Sinks() {
		if _, err := k.Net.Offer(t.Context(), l.shared, open); err != nil {
			t.Fatalf("%s: %v", k.Name, err)
		}
	}
}

// TestKubo puts a content into a real daemon, and gets it out of it and of its
// gateway, also by the manifest.
func TestKubo(t *testing.T) {
	d := kubotest.Start(t)
	l := newLibrary(t)
	set := start(t, Plan{To: mustParse(t, "ipfs+"+d.API), From: mustParse(t, "ipfs+"+d.API)}, Options{Library: l})
	offer(t, set, l)
	wantContent(t, set, l)
	manifest := slices.DeleteFunc(strings.Fields(d.Run(t, "pin", "ls", "--type=recursive", "--quiet")), func(cid string) bool {
		return !strings.HasPrefix(cid, "bafy2bzace") // of DAG-CBOR and BLAKE2b
	})
	if len(manifest) != 1 {
		t.Fatalf("pins are %q", manifest)
	}
	for _, query := range []string{"", "?manifest=" + manifest[0]} {
		wantContent(t, start(t, Plan{From: mustParse(t, "gateway+"+d.Gateway(t)+query)}, Options{}), l)
	}
	if _, err := Open(t.Context(), Plan{From: mustParse(t, "gateway+http://h?manifest=x")}, Options{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a manifest that is none: %v", err)
	}
}

// TestNDN serves by a real forwarder and gets by it.
func TestNDN(t *testing.T) {
	url := "ndn:?face=" + ndntest.Start(t, "").Face + "&prefix=/test"
	l, registered := newLibrary(t), make(told, 1)
	start(t, Plan{Serve: mustParse(t, url)}, Options{Library: l, Log: slog.New(slog.NewTextHandler(registered, nil))})
	<-registered
	wantContent(t, start(t, Plan{From: mustParse(t, url)}, Options{}), l)
}

// told gets a value when something is logged.
type told chan struct{}

func (c told) Write(p []byte) (int, error) {
	select {
	case c <- struct{}{}:
	default:
	}
	return len(p), nil
}

// TestTorrent serves a torrent and gets it from the peer.
func TestTorrent(t *testing.T) {
	l := newLibrary(t)
	content, err := l.Open(t.Context(), l.shared.ReadCap.Root)
	if err != nil {
		t.Fatal(err)
	}
	info, err := bittorrent.Describe(t.Context(), l.shared.ReadCap.Root, content)
	if err != nil {
		t.Fatal(err)
	}
	l.shared.Magnet = torrent.Magnet{Hash: info.Hash()}.String()
	serving := start(t, Plan{Serve: mustParse(t, "bittorrent:?listen=127.0.0.1:0&dht=off")}, Options{Library: l, State: t.TempDir()})
	offer(t, serving, l)
	urls := mustParse(t, l.shared.Magnet+"&x.pe="+serving.Listeners()[0].Addr.String())
	client := start(t, Plan{From: urls}, Options{})
	network := client.Sources()[0].Network
	if network.Open(block.Wanted{ReadCap: l.shared.ReadCap}) != nil {
		t.Error("looks for a torrent without a magnet link")
	}
	want := block.Wanted{ReadCap: l.shared.ReadCap, Magnet: Magnet(urls)}
	wantFrom(t, client, l, want)
}

// TestGNUnet puts to a real peer and gets from it.
func TestGNUnet(t *testing.T) {
	url := "gnunet:" + gnunettest.Start(t).Socket
	l := newLibrary(t)
	set := start(t, Plan{Serve: mustParse(t, url), To: mustParse(t, url+"?expiry=1h"), From: mustParse(t, url)}, Options{Library: l})
	offer(t, set, l)
	wantContent(t, set, l)
	if n := len(set.Putters()); n != 1 {
		t.Errorf("%d putters", n)
	}
}

// TestPlan has URLs of one network make one host, and what cannot be refused.
func TestPlan(t *testing.T) {
	for _, c := range []struct {
		from, to, serve string
		want            string // groups, or what is wrong
	}{
		{from: "http://a http://a?get http://b", want: "http://a?get:1 http://b:1"},
		{from: "coap://a?get", to: "coap://a?put", want: "coap://a/.well-known/eris?get&put:3"},
		{from: "coap://a/x", serve: "coap://a/y", want: "coap://a/…:1 coap://a/…:4"},
		{from: "ndn:?prefix=/a", serve: "ndn:?face=unix:///x", want: "ndn:?prefix=/a&face=unix:///x:5"},
		{from: "ndn:?prefix=/a", serve: "ndn:?prefix=/b", want: "ndn:?prefix=/a and ndn:?prefix=/b differ in prefix"},
		{to: "http://a", want: "http://a: does not grant put"},
		{to: "coap://a/x?get", want: "coap://a/…?get: does not grant put"},
		{to: "file:///a?get", want: "does not grant put"},
		{to: "file:///a ipfs+http://b:1", want: "file:///a:2 ipfs+http://b:1:2"},
		{from: "http://a?put", want: "does not grant get"},
		{serve: "http://a?get&put", want: "others can only get blocks here"},
		{serve: "https://a", want: "nothing can be served here"},
	} {
		p := Plan{From: mustParse(t, c.from), To: mustParse(t, c.to), Serve: mustParse(t, c.serve)}
		groups, err := p.groups()
		var got []string
		for _, g := range groups {
			got = append(got, g.url.String()+":"+string('0'+rune(g.uses)))
		}
		if err != nil {
			got = []string{err.Error()}
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%v: error of another kind", err)
			}
		}
		if s := strings.Join(got, " "); !strings.Contains(s, c.want) || err == nil && s != c.want {
			t.Errorf("%+v: %s", c, s)
		}
	}
	if !(Plan{}).Empty() || (Plan{To: mustParse(t, "file:///a")}).Empty() {
		t.Error("Empty is wrong")
	}
	if _, err := Open(t.Context(), Plan{Serve: mustParse(t, "http://127.0.0.1:0")}, Options{}); err == nil {
		t.Error("serves without a library")
	}
	if _, err := Open(t.Context(), Plan{Serve: mustParse(t, "http://127.0.0.1:0/path")}, Options{Library: newLibrary(t)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("serves below a path: %v", err)
	}
}
