package weather

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/internal/nodeapi"
	"ersatz/internal/upstream"
	"ersatz/internal/votes"
	"ersatz/narinfo"
	"ersatz/nixsig"
	"ersatz/storepath"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func key(t testing.TB, n byte) *guixsig.PrivateKey {
	t.Helper()
	k, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	must(t, err)
	return k
}

// path returns the path of item number n.
func path(n int) storepath.Path {
	return storepath.Path{Dir: storepath.Guix, Hash: fmt.Sprintf("%032d", n), Name: "item"}
}

// fields are those of item number n.
func fields(n int) narinfo.Fields {
	return narinfo.Fields{StorePath: path(n), NarHash: [32]byte{byte(n), byte(n >> 8)}, NarSize: 1000}
}

// urn names some content.
func urn(t testing.TB) string {
	t.Helper()
	rc, _, err := eris.Encode(strings.NewReader("x"), eris.Size1KiB, eris.Secret{}, nil)
	must(t, err)
	return rc.URN()
}

// text prints a narinfo, signed by k unless that is nil, with a nar of size
// bytes unless that is 0.
func text(t testing.TB, f narinfo.Fields, k *guixsig.PrivateKey, size uint64) string {
	t.Helper()
	body := f.Body()
	if k != nil {
		var err error
		body, err = narinfo.SignGuix(body, k, "host")
		must(t, err)
	}
	if size > 0 {
		body = append(body, narinfo.Locations([]narinfo.Nar{{URL: "nar/x", Compression: "zstd", FileSize: size}})...)
	}
	return string(body)
}

// site is a server that has texts by item number.
type site struct {
	*upstream.Server
	asked atomic.Int32
}

func newSite(t *testing.T, texts map[int]string) *site {
	t.Helper()
	s := &site{}
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		for n, text := range texts {
			if r.URL.Path == "/"+path(n).Hash+".narinfo" {
				fmt.Fprint(w, text)
				return
			}
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(hs.Close)
	s.Server = parse(t, hs.URL)
	return s
}

func parse(t testing.TB, url string) *upstream.Server {
	t.Helper()
	sv, err := upstream.ParseServer(url)
	must(t, err)
	return sv
}

// down is an address on which nobody listens.
func down(t *testing.T) *upstream.Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	return parse(t, "http://"+l.Addr().String())
}

func look(t *testing.T, o Options, paths []storepath.Path, servers ...*upstream.Server) Report {
	t.Helper()
	r, err := Look(t.Context(), http.DefaultClient, servers, paths, o)
	must(t, err)
	return r
}

func TestLook(t *testing.T) {
	good, stranger := key(t, 1), key(t, 2)
	asBlocks := fields(1)
	asBlocks.ERISFormat, asBlocks.ERIS = "application/x-nix-archive+zstd-3", urn(t)
	one := newSite(t, map[int]string{
		1: text(t, asBlocks, good, 300),
		2: text(t, fields(2), good, 0) + "URL: nar/x\nCompression: zstd\nURL: nar/y\nCompression: lzip\n", // of unknown sizes
		3: text(t, fields(3), good, 0),                                                                    // without a nar
		4: text(t, fields(4), stranger, 200),
		5: strings.Replace(text(t, fields(5), good, 200), "NarSize: 1000", "NarSize: 1001", 1),
		6: text(t, fields(7), good, 200), // another item's
		7: text(t, fields(7), nil, 200),
		8: "<html>\n",
	})
	two := newSite(t, map[int]string{
		1: text(t, asBlocks, good, 0) + "URL: a\nCompression: lzip\nFileSize: 250\nURL: b\nCompression: zstd\nFileSize: 270\n",
		4: text(t, fields(4), stranger, 0) + "URL: nar/plain\nCompression: none\n",
	})
	nobody := down(t)
	var paths []storepath.Path
	for n := range 10 {
		paths = append(paths, path(n))
	}
	paths = append(paths, path(1)) // twice
	var mu sync.Mutex
	var progress []int
	r := look(t, Options{
		ACL: guixsig.ACL{}.Add(good.Public()), Progress: func(done, total int) {
			mu.Lock()
			defer mu.Unlock()
			progress = append(progress, done, total)
		},
	}, paths, one.Server, two.Server, nobody)

	if len(r.Items) != 10 || r.Available != 2 || r.AsBlocks != 1 || r.AtPeers != 0 || !slices.Equal(progress, []int{5, 10, 10, 10}) {
		t.Errorf("%d items, %d available, %d as blocks, %d at peers, progress %v", len(r.Items), r.Available, r.AsBlocks, r.AtPeers, progress)
	}
	if n := one.asked.Load(); n != 10 {
		t.Errorf("%d requests", n)
	}
	for i := range r.Servers {
		sv := &r.Servers[i]
		if sv.answered > 0 && (sv.Seconds <= 0 || sv.First <= 0 || sv.First > sv.Seconds || sv.Rate() <= 0) {
			t.Errorf("%s: %f s, %f s, %f per s", sv.URL, sv.Seconds, sv.First, sv.Rate())
		}
		sv.Seconds, sv.First = 0, 0
		if i == 2 && sv.Error != "" {
			sv.Error = "refused"
		}
	}
	id, strange := good.Public().String(), stranger.Public().String()
	want := []Server{
		{URL: one.String(), Found: 6, Authorized: 3, AsBlocks: 1, Compressed: 900, Uncompressed: 6001, Unsized: 2, Malformed: 2, answered: 10,
			Keys: []Key{{id, "host", true, 3}, {strange, "host", false, 1}, {id, "host", false, 1}}, Error: "narinfo: of another store path: " + path(7).String()},
		{URL: two.String(), Found: 2, Authorized: 1, AsBlocks: 1, Compressed: 1250, Uncompressed: 2000, answered: 10,
			Keys: []Key{{id, "host", true, 1}, {strange, "host", false, 1}}},
		{URL: nobody.String(), Unanswered: 10, gone: true, Keys: []Key{}, Error: "refused"},
	}
	for i, sv := range want {
		if got, want := fmt.Sprintf("%+v", r.Servers[i]), fmt.Sprintf("%+v", sv); got != want {
			t.Errorf("server %d:\n%s, want\n%s", i, got, want)
		}
	}
	first := r.Items[1]
	if !first.Available || first.URN != asBlocks.ERIS || first.NarSize != 1000 || first.NarHash != narinfo.FormatHash(asBlocks.NarHash) ||
		len(first.Offers) != 2 || first.Offers[1].URN != asBlocks.ERIS || !first.Offers[0].Authorized || first.Offers[0].Keys[0] != id {
		t.Errorf("first item %+v", first)
	}
	for n, why := range map[int]string{
		3: "no server offers its nar", 4: "not in the ACL", 5: "changed after it was signed", 6: "of another store path",
		7: "unsigned", 8: "malformed", 9: "connection refused",
	} {
		if it := r.Items[n]; it.Available || !strings.Contains(it.Why, why) {
			t.Errorf("item %d: %v, %q, want %q", n, it.Available, it.Why, why)
		}
	}
	if lacking := r.Missing(); len(lacking) != 8 || lacking[0].Path != path(0).String() {
		t.Errorf("missing %v", lacking)
	}
}

// TestNix: each Sig is a key's, whoever is believed.
func TestNix(t *testing.T) {
	secret := func(name string, n byte) nixsig.SecretKey {
		k, err := nixsig.GenerateKey(name, bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
		must(t, err)
		return k
	}
	a, b := secret("a-1", 1), secret("b-1", 2)
	f := fields(1)
	sv := newSite(t, map[int]string{
		1: text(t, f, key(t, 1), 0) + string(f.SignNix(a)) + string(f.SignNix(b)) + string(f.SignNix(b)) + "URL: x\nCompression: xz\nFileSize: 1\n",
		2: text(t, fields(2), nil, 0) + string(f.SignNix(a)) + "URL: x\nCompression: xz\nFileSize: 1\n", // of item 1
	})
	r := look(t, Options{Nix: []nixsig.PublicKey{a.Public()}}, []storepath.Path{path(1), path(2)}, sv.Server)
	want := []Key{{key(t, 1).Public().String(), "host", false, 1}, {"a-1", "", true, 1}, {"b-1", "", false, 1}, {"a-1", "", false, 1}}
	if r.Available != 1 || !slices.Equal(r.Servers[0].Keys, want) {
		t.Errorf("%d available, keys %+v", r.Available, r.Servers[0].Keys)
	}
}

// fakePeers hold items by number.
type fakePeers struct {
	claims map[byte][]nodeapi.Claim
	err    error
	asked  int // hashes
}

func (p *fakePeers) Have(_ context.Context, hashes [][32]byte) ([][]nodeapi.Claim, error) {
	p.asked += len(hashes)
	list := make([][]nodeapi.Claim, len(hashes))
	for i, h := range hashes {
		list[i] = p.claims[h[0]]
	}
	return list, p.err
}

// TestPeers asks about items of which a narinfo counts, and one that a peer has
// whole can be had, though no server gives a nar.
func TestPeers(t *testing.T) {
	good := key(t, 1)
	sv := newSite(t, map[int]string{
		1: text(t, fields(1), good, 100), 2: text(t, fields(2), good, 0), 3: text(t, fields(3), good, 0), 4: text(t, fields(4), nil, 100),
	})
	whole, part := nodeapi.Claim{Peer: "http://p"}, nodeapi.Claim{Peer: "http://q", Part: true}
	p := &fakePeers{claims: map[byte][]nodeapi.Claim{1: {whole, part}, 2: {whole}, 3: {part}, 4: {whole}}}
	o := Options{ACL: guixsig.ACL{}.Add(good.Public()), Peers: p}
	paths := []storepath.Path{path(1), path(2), path(3), path(4)}
	r := look(t, o, paths, sv.Server)
	if r.Available != 2 || r.AtPeers != 2 || p.asked != 3 || !slices.Equal(r.Peers, []Peer{{"http://p", 2, 0}, {"http://q", 0, 2}}) {
		t.Errorf("%d available, %d at peers, %d asked, peers %+v", r.Available, r.AtPeers, p.asked, r.Peers)
	}
	if r.Items[1].Why != "" || r.Items[2].Why != "no server offers its nar" {
		t.Errorf("why: %q, %q", r.Items[1].Why, r.Items[2].Why)
	}
	p.err = errors.New("no node")
	if r = look(t, o, paths, sv.Server); r.PeersError != "no node" || r.Available != 1 || len(r.Peers) != 0 {
		t.Errorf("%+v", r)
	}
}

// TestClosure follows references, each once and also in circles, to the store
// of the item.
func TestClosure(t *testing.T) {
	good := key(t, 1)
	texts := map[int]string{}
	for n := range 3 {
		f := fields(n)
		f.References = []string{path(n).Base(), path((n + 1) % 3).Base(), path(9).Base()}
		texts[n] = text(t, f, good, 10)
	}
	sv := newSite(t, texts)
	o := Options{ACL: guixsig.ACL{}.Add(good.Public())}
	if r := look(t, o, []storepath.Path{path(0)}, sv.Server); len(r.Items) != 1 {
		t.Errorf("without closure: %d items", len(r.Items))
	}
	o.Closure = true
	r := look(t, o, []storepath.Path{path(0)}, sv.Server)
	if len(r.Items) != 4 || r.Available != 3 || r.Missing()[0].Path != path(9).String() {
		t.Errorf("items %+v", r.Items)
	}
	if n := sv.asked.Load(); n != 5 {
		t.Errorf("%d requests", n)
	}
}

// TestVotes: where several keys have to agree, one that is authorized is not
// enough.
func TestVotes(t *testing.T) {
	a, b := key(t, 1), key(t, 2)
	policy, err := votes.Parse(fmt.Appendf(nil, "require 2 of\n%s\n%s\n", a.Public(), b.Public()))
	must(t, err)
	acl := guixsig.ACL{}.Add(a.Public()).Add(b.Public())
	o := Options{ACL: acl, Agree: func(answers []upstream.Answer, judge upstream.Judge) upstream.Judge {
		return policy.Count(answers, acl, nil).Judge(judge)
	}}
	one := newSite(t, map[int]string{1: text(t, fields(1), a, 10), 2: text(t, fields(2), a, 10)})
	two := newSite(t, map[int]string{1: text(t, fields(1), b, 10)})
	r := look(t, o, []storepath.Path{path(1), path(2)}, one.Server, two.Server)
	if !r.Items[0].Available || r.Items[1].Available || !strings.Contains(r.Items[1].Why, "1 of the 2") || r.Servers[0].Authorized != 2 {
		t.Errorf("%+v", r)
	}
}

// TestMany asks in several batches, and a server that gave no answer in one is
// not waited for in the next.
func TestMany(t *testing.T) {
	var paths []storepath.Path
	for n := range batch + 10 {
		paths = append(paths, path(n))
	}
	sv, nobody := newSite(t, nil), down(t)
	r := look(t, Options{}, paths, sv.Server, nobody)
	if len(r.Items) != batch+10 || r.Servers[1].Unanswered != batch+10 || int(sv.asked.Load()) != batch+10 || r.Servers[0].answered != batch+10 {
		t.Errorf("%d items, servers %+v", len(r.Items), r.Servers)
	}
	many := make([]storepath.Path, MaxItems+1)
	for n := range many {
		many[n] = path(n)
	}
	if _, err := Look(t.Context(), http.DefaultClient, nil, many, Options{}); !errors.Is(err, ErrTooMany) {
		t.Errorf("too many: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Look(ctx, http.DefaultClient, []*upstream.Server{sv.Server}, paths, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestManyKeys: a server that names a key per item does not fill memory.
func TestManyKeys(t *testing.T) {
	texts := map[int]string{}
	var paths []storepath.Path
	for n := range maxKeys + 20 {
		texts[n] = text(t, fields(n), nil, 0) + fmt.Sprintf("Sig: k%d:x\n", n)
		paths = append(paths, path(n))
	}
	r := look(t, Options{}, paths, newSite(t, texts).Server)
	if n := len(r.Servers[0].Keys); n != maxKeys {
		t.Errorf("%d keys", n)
	}
}

func TestPrint(t *testing.T) {
	r := Report{
		Items: []Item{
			{Path: path(1).String(), Available: true},
			{Path: path(2).String(), Why: "http://a: on\x1b[2J fire\nhttp://b: too"},
			{Path: path(3).String()},
		},
		Servers: []Server{
			{URL: "http://a", Found: 3, Authorized: 2, AsBlocks: 1, Compressed: 1500, Uncompressed: 5 << 30, Unsized: 1, answered: 3, Seconds: 1.5, First: 0.0452,
				Keys: []Key{{"ed25519:00", "ho\x07st", true, 2}, {"k-1", "", false, 1}}},
			{URL: "http://b", Unanswered: 2, Malformed: 1, answered: 1, Seconds: 0.5, First: 0.5, Error: strings.Repeat("x", 1100)},
		},
		Peers:     []Peer{{"http://p", 1, 2}},
		Available: 1, AsBlocks: 1, AtPeers: 1,
	}
	const want = `http://a
  3 of 3 items (100.0 %), 2 by an authorized key, 1 as blocks
  1.5 KiB of nars, without 1 item whose size it does not say; 5.0 GiB unpacked
  key ed25519:00 (ho�st), authorized: 2 items
  key k-1, not authorized: 1 item
  3 answers in 1.5 s, 2 per second, the first after 45 ms
http://b
  0 of 3 items (0.0 %), 0 by an authorized key, 0 as blocks
  1 answer in 0.5 s, 2 per second, the first after 500 ms
  no answer about 2 items
  not a narinfo of theirs for 1 item
  XXX…
peers
  http://p: 1 item whole, 2 in part
altogether
  1 of 3 items (33.3 %) can be had, 1 as blocks, 1 from peers
`
	var out bytes.Buffer
	must(t, Print(&out, r, false))
	if got := strings.Replace(out.String(), strings.Repeat("x", 1000), "XXX", 1); got != want {
		t.Errorf("printed\n%s", got)
	}
	out.Reset()
	must(t, Print(&out, r, true))
	if lacking := "missing\n  " + path(2).String() + "\n    http://a: on�[2J fire\n    http://b: too\n  " + path(3).String() + "\n"; !strings.HasSuffix(out.String(), lacking) {
		t.Errorf("printed\n%s", out.String())
	}
	out.Reset()
	must(t, Print(&out, Report{PeersError: "no node"}, true))
	if got := out.String(); got != "peers\n  not asked: no node\naltogether\n  0 of 0 items (100.0 %) can be had, 0 as blocks, 0 from peers\n" {
		t.Errorf("printed\n%s", got)
	}
	out.Reset()
	must(t, PrintJSON(&out, r))
	var again Report
	if err := json.Unmarshal(out.Bytes(), &again); err != nil || len(again.Items) != 3 || again.Servers[0].Keys[1].ID != "k-1" || again.Peers[0].Part != 2 {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// TestLongNarinfos: what is found of an item is not its narinfo, nor a name of any
// length that it gives its key.
func TestLongNarinfos(t *testing.T) {
	const items, long = 64, 256 << 10
	good := key(t, 1)
	texts := map[int]string{}
	for n := range items {
		f := fields(n)
		f.References = []string{path(n + 1).Base()}
		f.ERIS, f.ERISFormat = urn(t), "application/x-nix-archive+zstd-19"
		texts[n] = text(t, f, good, 10) + "Sig: k" + strings.Repeat("x", long) + ":x\nSig: k:x\n"
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	sv := newSite(t, texts)
	before := heap()
	r := look(t, Options{ACL: guixsig.ACL{}.Add(good.Public()), Closure: true}, []storepath.Path{path(0)}, sv.Server)
	if len(r.Items) != items+1 || r.AsBlocks != items || len(r.Servers[0].Keys) != 3 {
		t.Errorf("%d items, %d as blocks, %d keys", len(r.Items), r.AsBlocks, len(r.Servers[0].Keys))
	}
	if took := heap() - before; took > items*long/8 {
		t.Errorf("%d items take %d bytes", items, took)
	}
	runtime.KeepAlive(r)
	other := strings.Replace(text(t, fields(0), good, 10), path(0).String(), path(0).String()+strings.Repeat("x", long), 1)
	r = look(t, Options{}, []storepath.Path{path(0)}, newSite(t, map[int]string{0: other}).Server)
	if n, m := len(r.Items[0].Why), len(r.Servers[0].Error); n == 0 || n > 4096 || m > 4096 {
		t.Errorf("why it cannot be had is said in %d bytes, what is wrong with the server in %d", n, m)
	}
}
