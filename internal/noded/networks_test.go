package noded

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/internal/compress"
	"ersatz/internal/node"
	"ersatz/internal/nodeapi"
	"ersatz/internal/stores"
	"ersatz/internal/torrent"
	"ersatz/internal/transfer"
	"ersatz/internal/transport/gnunet/gnunettest"
	"ersatz/internal/transport/ipfs/kubotest"
	"ersatz/internal/transport/ndn/ndntest"
	"ersatz/internal/upstream"
	"ersatz/nar"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// goods is an item as a server has it: a narinfo that somebody signed, with a
// torrent, and a nar as it is.
type goods struct {
	path storepath.Path
	text []byte
	nar  []byte
}

func newKey(t *testing.T) *guixsig.PrivateKey {
	t.Helper()
	key, err := guixsig.GenerateKey(rand.Reader)
	check(t, err)
	return key
}

func newGoods(t *testing.T, seed byte, size int, key *guixsig.PrivateKey) *goods {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	content := make([]byte, size)
	mathrand.NewChaCha8([32]byte{seed}).Read(content) // never fails
	check(t, os.WriteFile(file, content, 0o444))
	var archive bytes.Buffer
	_, err := nar.Dump(&archive, file)
	check(t, err)
	g := &goods{nar: archive.Bytes()}
	d := sha256.Sum256(g.nar)
	g.path, err = storepath.Source(storepath.Guix, "goods", d, nil)
	check(t, err)
	shape := eris.NewShape(eris.Size32KiB, int64(len(g.nar)))
	blocks := make([][]byte, shape.Nodes())
	rc, _, err := eris.Encode(bytes.NewReader(g.nar), eris.Size32KiB, eris.Secret{}, func(b eris.Block) error {
		place, _ := shape.Number(b.Level, b.Index)
		blocks[place] = bytes.Clone(b.Data)
		return nil
	})
	check(t, err)
	build := torrent.NewBuilder()
	for _, b := range blocks {
		build.Write(b)
	}
	info := build.Finish(rc.Root)
	fields := narinfo.Fields{
		StorePath: g.path, NarHash: d, NarSize: uint64(len(g.nar)), ERISFormat: compress.None.Format(), ERIS: rc.URN(),
		ERISMagnet: torrent.Magnet{Hash: info.Hash(), Name: info.Name}.String(),
	}
	g.text, err = narinfo.SignGuix(fields.Body(), key, "origin")
	check(t, err)
	g.text = append(g.text, narinfo.Locations([]narinfo.Nar{{URL: "nar/" + g.path.Base(), Compression: "none", FileSize: uint64(len(g.nar))}})...)
	return g
}

// newShop serves whole nars, and no blocks.
func newShop(t *testing.T, all ...*goods) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/nix-cache-info", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "StoreDir: "+storepath.Guix+"\n") })
	for _, g := range all {
		mux.HandleFunc("/"+g.path.Hash+".narinfo", func(w http.ResponseWriter, _ *http.Request) { w.Write(g.text) })
		mux.HandleFunc("/nar/"+g.path.Base(), func(w http.ResponseWriter, _ *http.Request) { w.Write(g.nar) })
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func plan(t *testing.T, from, serve string) (p stores.Plan) {
	t.Helper()
	for list, url := range map[*[]stores.URL]string{&p.From: from, &p.Serve: serve} {
		if url == "" {
			continue
		}
		u, err := stores.Parse(url)
		check(t, err)
		*list = append(*list, u)
	}
	return p
}

// network returns what a node says of the one store that it has.
func network(t *testing.T, c *nodeapi.Client) nodeapi.Network {
	t.Helper()
	s, err := c.Status(t.Context())
	check(t, err)
	if len(s.Networks) != 1 {
		t.Fatalf("networks %+v", s.Networks)
	}
	return s.Networks[0]
}

// keeps waits until a node keeps so many items: one that was given is kept a moment
// later.
func keeps(t *testing.T, c *nodeapi.Client, n int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := c.Status(t.Context())
		check(t, err)
		if s.Kept.Items >= n {
			return
		}
		<-tick.C
	}
}

// ways are the stores and networks by which an item goes from one node to another:
// the URL at which one serves, and the one that the other gets it from, in which
// LISTEN stands for where the one listens.
var ways = map[string]func(t *testing.T) (serve, from string){
	"http": func(*testing.T) (string, string) { return "http://127.0.0.1:0", "http://LISTEN" },
	"coap": func(*testing.T) (string, string) { return "coap+tcp://127.0.0.1:0/secret", "coap+tcp://LISTEN/secret" },
	"bittorrent": func(*testing.T) (string, string) {
		return "bittorrent:?listen=127.0.0.1:0&dht=off", "bittorrent:?x.pe=LISTEN"
	},
	"ipfs": func(*testing.T) (string, string) {
		return "ipfs:?listen=/ip4/127.0.0.1/tcp/0&dht=off", "ipfs:?peer=LISTEN"
	},
	"file": func(t *testing.T) (string, string) {
		dir := "file://" + t.TempDir()
		return dir, dir
	},
	"kubo": func(t *testing.T) (string, string) {
		api := "ipfs+" + kubotest.Start(t).API
		return api, api
	},
	"ndn": func(t *testing.T) (string, string) {
		u := "ndn:?face=" + url.QueryEscape(ndntest.Start(t, "").Face)
		return u, u
	},
	"gnunet": func(t *testing.T) (string, string) {
		u := "gnunet://" + gnunettest.Start(t).Socket
		return u, u
	},
}

// answers are those that are asked, and not given anything before.
var answers = map[string]bool{"http": true, "coap": true, "ndn": true}

// kinds are the sources that the metrics name otherwise.
var kinds = map[string]string{"kubo": "ipfs"}

// What one node shares, another one gets by each network alone, with the origin
// gone; what nobody has signed who is on the share list, it does not get.
func TestFromNodeToNode(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, other := newKey(t), newKey(t)
			shared, private := newGoods(t, 1, 3<<20, key), newGoods(t, 2, 500_000, other)
			shop := newShop(t, shared, private)
			origin, err := upstream.ParseServer(shop.URL)
			check(t, err)
			serveAt, from := way(t)
			one := open(t, t.TempDir(), Options{
				Servers: []*upstream.Server{origin}, Stores: plan(t, "", serveAt),
				Node: node.Options{ShareKeys: node.Keys{Guix: guixsig.ACL{}.Add(key.Public())}},
			})
			at, socket, stop := serve(t, one)
			first := nodeapi.New(socket, 0)
			defer first.Close()
			for _, g := range []*goods{shared, private} {
				get(t, at+"/"+g.path.Hash+".narinfo")
				if got := get(t, at+"/nar/"+g.path.Base()); got != string(g.nar) {
					t.Fatalf("a nar of %d bytes", len(got))
				}
			}
			shop.Close()
			keeps(t, first, 2)
			net := network(t, first)
			if !answers[name] {
				tick := time.NewTicker(20 * time.Millisecond)
				for ; net.Offered == 0; net = network(t, first) {
					<-tick.C
				}
				tick.Stop()
			}
			if !net.Serve || net.From || net.Offered > 1 || net.ServeError != "" {
				t.Errorf("the first node: %+v", net)
			}
			if len(net.Listen) > 0 {
				from = strings.ReplaceAll(from, "LISTEN", net.Listen[0])
			}
			two := open(t, t.TempDir(), Options{Stores: plan(t, from, "")})
			at, socket, _ = serve(t, two)
			second := nodeapi.New(socket, 0)
			defer second.Close()
			read := func(g *goods) ([]byte, error) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				n, err := second.Nar(ctx, nodeapi.NarRequest{Path: g.path.String(), Narinfos: []nodeapi.Narinfo{{Server: shop.URL, Text: string(g.text)}}})
				if err != nil {
					return nil, err
				}
				b, err := io.ReadAll(n)
				return b, errors.Join(err, n.Close())
			}
			start := time.Now()
			if got, err := read(shared); err != nil || !bytes.Equal(got, shared.nar) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			t.Logf("3 MiB took %v", time.Since(start))
			start = time.Now()
			if _, err := read(private); err == nil {
				t.Error("what is not shared came")
			}
			t.Logf("that the other cannot be had took %v", time.Since(start))
			net = network(t, second)
			if !net.From || net.Serve || net.Blocks < 96 || net.StartMS <= 0 || strings.Contains(net.URL, "secret") {
				t.Errorf("the second node: %+v", net)
			}
			kind := name
			if kinds[name] != "" {
				kind = kinds[name]
			}
			if want := `ersatz_transfer_bytes_total{source="` + kind + `"} 3`; !strings.Contains(get(t, at+"/metrics"), want) {
				t.Errorf("no %s", want)
			}
			stop()
		})
	}
}

// A server that answers nothing any more costs one small item a second, and the next
// ones nothing, where a store has them.
func TestHungServer(t *testing.T) {
	key := newKey(t)
	first, second := newGoods(t, 1, 100_000, key), newGoods(t, 2, 100_000, key)
	shop := newShop(t, first, second)
	origin, err := upstream.ParseServer(shop.URL)
	check(t, err)
	one := open(t, t.TempDir(), Options{
		Servers: []*upstream.Server{origin}, Stores: plan(t, "", "coap+tcp://127.0.0.1:0"),
		Node: node.Options{ShareKeys: node.Keys{Guix: guixsig.ACL{}.Add(key.Public())}},
	})
	at, socket, _ := serve(t, one)
	c := nodeapi.New(socket, 0)
	defer c.Close()
	var nars atomic.Int32 // that were asked for
	stuck := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/nar/") {
			nars.Add(1)
		}
		io.Copy(io.Discard, r.Body) // or the server does not see that the client goes away
		<-r.Context().Done()
	}))
	defer stuck.Close()
	two := open(t, t.TempDir(), Options{Stores: plan(t, "coap+tcp://"+network(t, c).Listen[0]+"?get", "")})
	_, socket, _ = serve(t, two)
	other := nodeapi.New(socket, 0)
	defer other.Close()
	for k, g := range []*goods{first, second} {
		get(t, at+"/"+g.path.Hash+".narinfo")
		get(t, at+"/nar/"+g.path.Base())
		keeps(t, c, k+1)
		start := time.Now()
		n, err := other.Nar(t.Context(), nodeapi.NarRequest{Path: g.path.String(), Narinfos: []nodeapi.Narinfo{{Server: stuck.URL, Text: string(g.text)}}})
		check(t, err)
		got, err := io.ReadAll(n)
		check(t, errors.Join(err, n.Close()))
		took := time.Since(start)
		if !bytes.Equal(got, g.nar) || k == 0 && took < time.Second || took > upstream.DefaultStall || nars.Load() != 1 {
			t.Errorf("item %d: %d bytes in %v; %d nars were asked for", k, len(got), took, nars.Load())
		}
		t.Logf("item %d took %v", k, took)
	}
}

// What networks remember is kept, and the same URL may be asked and served at.
func TestNetworksRestart(t *testing.T) {
	dir := t.TempDir()
	ids := map[string]bool{}
	for range 2 {
		const u = "ipfs:?listen=/ip4/127.0.0.1/tcp/0&dht=off"
		s := open(t, dir, Options{Stores: plan(t, u, u)})
		_, socket, stop := serve(t, s)
		c := nodeapi.New(socket, 0)
		net := network(t, c)
		if !net.From || !net.Serve || net.Kind != "ipfs" || len(net.Listen) == 0 {
			t.Fatalf("%+v", net)
		}
		_, id, _ := strings.Cut(net.Listen[0], "/p2p/")
		ids[id] = true
		c.Close()
		stop()
	}
	if len(ids) != 1 || ids[""] {
		t.Errorf("identities %v", ids)
	}
}

// Stores that cannot be used so are the operator's fault; one whose address is
// taken may pass.
func TestStoreOptions(t *testing.T) {
	taken := listen(t, "tcp", "127.0.0.1:0")
	defer taken.Close()
	for u, fault := range map[string]bool{
		"http://127.0.0.1:0?put":              true,
		"coap+tcp://" + taken.Addr().String(): false,
	} {
		dir := t.TempDir()
		s, err := Open(t.Context(), dir, Options{Stores: plan(t, "", u)})
		var option *OptionError
		if s != nil || err == nil || errors.As(err, &option) != fault {
			t.Errorf("%s: %v", u, err)
		}
		check(t, open(t, dir, Options{}).Close())
	}
}

// With http-only, stores are open and none is asked.
func TestHTTPOnlyNode(t *testing.T) {
	g := newGoods(t, 1, 100_000, newKey(t))
	shop := newShop(t, g)
	origin, err := upstream.ParseServer(shop.URL)
	check(t, err)
	asked := make(chan string, 9)
	store := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	defer store.Close()
	s := open(t, t.TempDir(), Options{Servers: []*upstream.Server{origin}, Policy: transfer.HTTPOnly, Stores: plan(t, store.URL, "")})
	at, _, _ := serve(t, s)
	get(t, at+"/"+g.path.Hash+".narinfo")
	if got := get(t, at+"/nar/"+g.path.Base()); got != string(g.nar) || len(asked) > 0 {
		t.Errorf("%d bytes, %d requests", len(got), len(asked))
	}
}
