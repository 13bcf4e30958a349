package noded

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/internal/block/dirstore"
	"ersatz/internal/block/memstore"
	"ersatz/internal/compress"
	"ersatz/internal/metrics"
	"ersatz/internal/node"
	"ersatz/internal/stores"
	"ersatz/internal/torrent"
	"ersatz/internal/transport/coap"
	"ersatz/internal/transport/gnunet"
	"ersatz/internal/transport/gnunet/gnunettest"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/transport/ndn"
	"ersatz/internal/transport/ndn/ndntest"
	"ersatz/internal/upstream"
	"ersatz/nar"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// spread is a nar whose blocks lie in several places, each of which has a share
// that no other has.
type spread struct {
	t      *testing.T
	nar    []byte
	cap    eris.ReadCap
	refs   []eris.Ref // in the order of the tree
	blocks map[eris.Ref][]byte
	info   torrent.Info
	shares [][]eris.Ref
}

// newSpread makes a nar of some 12 MB, in n shares of whole pieces of its torrent.
func newSpread(t *testing.T, n int) *spread {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	content := make([]byte, 12<<20)
	mathrand.NewChaCha8([32]byte{7}).Read(content) // never fails
	check(t, os.WriteFile(file, content, 0o444))
	var text bytes.Buffer
	_, err := nar.Dump(&text, file)
	check(t, err)
	s := &spread{t: t, nar: text.Bytes(), blocks: map[eris.Ref][]byte{}, shares: make([][]eris.Ref, n)}
	shape := eris.NewShape(eris.Size32KiB, int64(len(s.nar)))
	s.refs = make([]eris.Ref, shape.Nodes())
	s.cap, _, err = eris.Encode(bytes.NewReader(s.nar), eris.Size32KiB, eris.Secret{}, func(b eris.Block) error {
		place, _ := shape.Number(b.Level, b.Index)
		s.refs[place], s.blocks[b.Ref] = b.Ref, bytes.Clone(b.Data)
		return nil
	})
	check(t, err)
	build := torrent.NewBuilder()
	for _, ref := range s.refs {
		build.Write(s.blocks[ref])
	}
	s.info = build.Finish(s.cap.Root)
	piece := 0
	for refs := range slices.Chunk(s.refs, torrent.PieceLength/int(eris.Size32KiB)) {
		s.shares[piece%n] = append(s.shares[piece%n], refs...)
		piece++
	}
	return s
}

// share returns a store with the k-th share.
func (s *spread) share(k int) *memstore.Store {
	m := memstore.New()
	for _, ref := range s.shares[k] {
		check(s.t, m.Put(s.t.Context(), ref, s.blocks[ref]))
	}
	return m
}

// until runs something until the end of the test.
func (s *spread) until(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	var err error
	work.Go(func() { err = run(ctx) })
	s.t.Cleanup(func() {
		cancel()
		work.Wait()
		check(s.t, err)
	})
}

// batches is a share as an HTTP server wants it.
type batches struct{ *memstore.Store }

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

// places are where the shares lie: each returns the store URL of the k-th.
var places = []struct {
	kind  metrics.Source
	start func(s *spread, k int) string
}{
	{metrics.HTTP, func(s *spread, k int) string {
		srv := httptest.NewServer(n2r.Handler(batches{s.share(k)}))
		s.t.Cleanup(srv.Close)
		return srv.URL
	}},
	{metrics.File, func(s *spread, k int) string {
		dir := s.t.TempDir()
		d, err := dirstore.Create(dir)
		check(s.t, err)
		for _, ref := range s.shares[k] {
			check(s.t, d.Put(s.t.Context(), ref, s.blocks[ref]))
		}
		check(s.t, d.Close())
		return "file://" + dir
	}},
	{metrics.CoAP, func(s *spread, k int) string {
		server, err := coap.NewServer([]coap.Resource{{Path: coap.WellKnown, Blocks: s.share(k)}}, coap.ServerOptions{})
		check(s.t, err)
		l := listen(s.t, "tcp", "127.0.0.1:0")
		s.until(func(ctx context.Context) error { return server.ServeTCP(ctx, l) })
		return "coap+tcp://" + l.Addr().String()
	}},
	{metrics.IPFS, func(s *spread, k int) string {
		// A daemon, as a peer of the host in the node.
		_, d := s.kubo(k)
		var id struct{ Addresses []string }
		check(s.t, json.Unmarshal([]byte(d.Run(s.t, "id")), &id))
		i := slices.IndexFunc(id.Addresses, func(a string) bool { return strings.HasPrefix(a, "/ip4/127.0.0.1/tcp/") })
		if i < 0 {
			s.t.Fatalf("a daemon listens at %q", id.Addresses)
		}
		return "ipfs:?peer=" + url.QueryEscape(id.Addresses[i])
	}},
	{metrics.BitTorrent, (*spread).aria2},
	{metrics.NDN, func(s *spread, k int) string {
		f := ndntest.Start(s.t, "")
		s.until(func(ctx context.Context) error {
			return ndn.Serve(ctx, s.share(k), ndn.Options{Face: f.Face}, ndn.ServerOptions{})
		})
		return "ndn:?face=" + url.QueryEscape(f.Face)
	}},
	{metrics.GNUnet, func(s *spread, k int) string {
		p := gnunettest.Start(s.t)
		c, err := gnunet.New(gnunet.Options{Socket: p.Socket})
		check(s.t, err)
		for _, ref := range s.shares[k] {
			check(s.t, c.Put(s.t.Context(), ref, s.blocks[ref]))
		}
		check(s.t, c.Close())
		return "gnunet://" + p.Socket
	}},
}

// kubo starts a daemon that has a share.
func (s *spread) kubo(k int) (api string, d *kubotest.Daemon) {
	d = kubotest.Start(s.t)
	c, err := ipfs.New(d.API, nil)
	check(s.t, err)
	refs := s.shares[k]
	_, err = c.Put(s.t.Context(), refs[0], slices.Values(refs), func(emit func(eris.Ref, []byte) error) error {
		for _, ref := range refs {
			if err := emit(ref, s.blocks[ref]); err != nil {
				return err
			}
		}
		return nil
	})
	check(s.t, err)
	return d.API, d
}

// aria2 has a share of the torrent's file, finds out which by its hashes, and
// gives that to others.
func (s *spread) aria2(k int) string {
	program, err := exec.LookPath("aria2c")
	if err != nil {
		s.t.Skip("no aria2c (Debian package aria2)")
	}
	dir := s.t.TempDir()
	f, err := os.Create(filepath.Join(dir, s.info.Name))
	check(s.t, err)
	for _, ref := range s.shares[k] {
		_, err := f.WriteAt(s.blocks[ref], int64(slices.Index(s.refs, ref))*int64(eris.Size32KiB))
		check(s.t, err)
	}
	check(s.t, errors.Join(f.Truncate(s.info.Length), f.Close()))
	meta := filepath.Join(dir, "item.torrent")
	check(s.t, os.WriteFile(meta, s.info.Metainfo(nil, nil), 0o644))
	free := listen(s.t, "tcp", "127.0.0.1:0")
	_, port, err := net.SplitHostPort(free.Addr().String())
	check(s.t, errors.Join(err, free.Close()))
	s.until(func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, program, "--no-conf", "--dir="+dir, "--listen-port="+port, "--check-integrity=true", "--allow-overwrite=true",
			"--file-allocation=none", "--seed-ratio=0", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false",
			"--enable-peer-exchange=false", "--disable-ipv6=true", "--summary-interval=0", meta)
		out, err := cmd.CombinedOutput()
		if ctx.Err() == nil {
			return fmt.Errorf("aria2c ended: %w\n%s", err, out)
		}
		return nil
	})
	return "bittorrent:?x.pe=127.0.0.1:" + port
}

// TestEverywhere has a node fetch one nar of which each transport alone holds a
// share, most of them by programs that are not ours; the server that signed it has
// nothing but the narinfo.
func TestEverywhere(t *testing.T) {
	if os.Getenv(kubotest.EnvBinary) == "" {
		t.Skipf("%s does not name an ipfs program (make check builds one)", kubotest.EnvBinary)
	}
	s := newSpread(t, len(places))
	var plan stores.Plan
	for k, p := range places {
		u, err := stores.Parse(p.start(s, k))
		check(t, err)
		plan.From = append(plan.From, u)
	}
	key, err := guixsig.GenerateKey(rand.Reader)
	check(t, err)
	origin, path := s.origin(key)
	sv, err := upstream.ParseServer(origin)
	check(t, err)
	keys := node.Keys{Guix: guixsig.ACL{}.Add(key.Public())}
	service := open(t, t.TempDir(), Options{
		Servers: []*upstream.Server{sv}, Stores: plan,
		Node: node.Options{Keys: func() (node.Keys, error) { return keys, nil }},
	})
	at, _, _ := serve(t, service)
	n, err := narinfo.Parse([]byte(get(t, at+"/"+path.Hash+".narinfo")))
	check(t, err)
	if got := get(t, at+"/"+n.Nars[0].URL); got != string(s.nar) {
		t.Fatalf("got another nar, of %d bytes instead of %d", len(got), len(s.nar))
	}
	came := regexp.MustCompile(`(?m)^ersatz_transfer_bytes_total\{source="(\w+)"\} (\S+)$`).FindAllStringSubmatch(get(t, at+"/metrics"), -1)
	total := 0.0
	for k, p := range places {
		i := slices.IndexFunc(came, func(m []string) bool { return m[1] == string(p.kind) })
		if i < 0 {
			t.Fatalf("nothing is counted of %s", p.kind)
		}
		bytes, err := strconv.ParseFloat(came[i][2], 64)
		check(t, err)
		if want := float64(len(s.shares[k]) * int(eris.Size32KiB)); bytes != want {
			t.Errorf("%s gave %.0f bytes, its share has %.0f", p.kind, bytes, want)
		}
		total += bytes
	}
	if want := float64(len(s.refs) * int(eris.Size32KiB)); total != want {
		t.Errorf("%.0f bytes came by networks, of %.0f", total, want)
	}
}

// origin serves the signed narinfo of the nar and nothing else, and returns its
// URL and the item.
func (s *spread) origin(key *guixsig.PrivateKey) (string, storepath.Path) {
	d := sha256.Sum256(s.nar)
	path, err := storepath.Source(storepath.Guix, "everywhere", d, nil)
	check(s.t, err)
	fields := narinfo.Fields{
		StorePath: path, NarHash: d, NarSize: uint64(len(s.nar)),
		ERISFormat: compress.None.Format(), ERIS: s.cap.URN(), ERISMagnet: torrent.Magnet{Hash: s.info.Hash(), Name: s.info.Name}.String(),
	}
	text, err := narinfo.SignGuix(fields.Body(), key, "origin")
	check(s.t, err)
	text = append(text, narinfo.Locations([]narinfo.Nar{{URL: "nar/" + path.Base(), Compression: "none", FileSize: uint64(len(s.nar))}})...)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/nix-cache-info":
			io.WriteString(w, "StoreDir: "+storepath.Guix+"\n")
		case "/" + path.Hash + ".narinfo":
			w.Write(text)
		default:
			http.NotFound(w, r)
		}
	}))
	s.t.Cleanup(srv.Close)
	return srv.URL, path
}
