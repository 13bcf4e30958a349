package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/compress"
	"ersatz/internal/fetch"
	"ersatz/internal/keep"
	"ersatz/internal/node"
	"ersatz/internal/peers"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/transport/peer"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func closing(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// noise returns n bytes that do not compress.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// blocks is what a server of blocks has.
type blocks = blocktest.Blocks

// thing is an item as servers have it.
type thing struct {
	fields narinfo.Fields
	nar    []byte
	files  map[string][]byte // by method
	order  []string          // methods, as the narinfo has them
	rc     eris.ReadCap      // of the first method's file
	blocks blocks
	refs   []eris.Ref   // in the encoder's order
	nodes  []eris.Block // where each stands, likewise
}

// newThing makes an item of size random bytes, compressed by methods. Blocks are
// those of the first, and their URN is signed.
func newThing(t testing.TB, seed byte, size int, methods ...string) *thing {
	t.Helper()
	x := &thing{order: methods}
	x.setNar(t, noise(seed, size))
	return x
}

// setNar makes all of an item that depends on its nar.
func (x *thing) setNar(t testing.TB, archive []byte) {
	t.Helper()
	x.nar, x.files, x.blocks, x.refs = archive, map[string][]byte{}, blocks{}, nil
	hash := sha256.Sum256(x.nar)
	p, err := storepath.Parse("/gnu/store/" + nixbase32.Encode(hash[:20]) + "-thing")
	must(t, err)
	x.fields = narinfo.Fields{StorePath: p, NarHash: hash, NarSize: uint64(len(x.nar))}
	for k, name := range x.order {
		m := compress.Method{Name: name, Level: 1}
		if name == "none" {
			m = compress.None
		}
		var b bytes.Buffer
		w, err := compress.NewWriter(&b, m)
		must(t, err)
		_, err = w.Write(x.nar)
		must(t, err)
		must(t, w.Close())
		x.files[name] = b.Bytes()
		if k > 0 {
			continue
		}
		x.recode(t, eris.Recommended(int64(b.Len())))
		x.fields.ERISFormat = m.Format()
	}
}

// unsigned leaves the URN out of the narinfo.
func (x *thing) unsigned() *thing {
	x.fields.ERIS, x.fields.ERISFormat = "", ""
	return x
}

func testKey(t testing.TB) *guixsig.PrivateKey {
	k, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{1}, 32)))
	must(t, err)
	return k
}

func (x *thing) text(t testing.TB) []byte {
	t.Helper()
	text, err := narinfo.SignGuix(x.fields.Body(), testKey(t), "test")
	must(t, err)
	var nars []narinfo.Nar
	for _, m := range x.order {
		nars = append(nars, narinfo.Nar{URL: "nar/" + m + "/" + x.fields.StorePath.Base(), Compression: m, FileSize: uint64(len(x.files[m]))})
	}
	return append(text, narinfo.Locations(nars)...)
}

// want is what a node asks for that knows the item from servers.
func (x *thing) want(t testing.TB, servers ...string) node.Want {
	t.Helper()
	var answers []upstream.Answer
	for _, s := range servers {
		answers = append(answers, answer(t, x, s))
	}
	return choose(t, x.fields.StorePath, answers...)
}

// answer is what a server says of an item.
func answer(t testing.TB, x *thing, server string) upstream.Answer {
	t.Helper()
	sv, err := upstream.ParseServer(server)
	must(t, err)
	return upstream.Answer{Server: sv, Text: x.text(t)}
}

// choose is what a node makes of the answers about an item.
func choose(t testing.TB, p storepath.Path, answers ...upstream.Answer) node.Want {
	t.Helper()
	acl := guixsig.ACL{}.Add(testKey(t).Public())
	c := upstream.Choose(p, answers, func(n *narinfo.Narinfo) (narinfo.Signed, error) { return n.VerifyGuix(acl) })
	if len(c.Builds) != 1 {
		t.Fatal(c.Refused)
	}
	return node.Want{Path: p, Choice: c}
}

// origin is a server of nars and blocks that counts what it gives.
type origin struct {
	url string

	mu     sync.Mutex
	files  map[string][]byte // by path
	blocks blocks
	fault  func(w http.ResponseWriter, r *http.Request) bool // answers what it wants to
	noETag bool
	served map[string]int // body bytes by the first component of the path
	asked  map[string]int // requests, likewise
}

func newOrigin(t testing.TB, things ...*thing) *origin {
	o := &origin{files: map[string][]byte{}, blocks: blocks{}, served: map[string]int{}, asked: map[string]int{}}
	for _, x := range things {
		for m, b := range x.files {
			o.files["/nar/"+m+"/"+x.fields.StorePath.Base()] = b
		}
		if x.fields.ERIS != "" {
			maps.Copy(o.blocks, x.blocks)
		}
	}
	s := httptest.NewServer(o)
	t.Cleanup(s.Close)
	o.url = s.URL
	return o
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := strings.Split(r.URL.Path, "/")[1]
	o.mu.Lock()
	o.asked[kind]++
	file, ok := o.files[r.URL.Path]
	fault, blocks := o.fault, o.blocks
	o.mu.Unlock()
	w = &counting{w, func(n int) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.served[kind] += n
	}}
	switch {
	case fault != nil && fault(w, r):
	case r.URL.Path == n2r.BatchPath || r.URL.Path == n2r.BlockPath:
		n2r.Handler(blocks).ServeHTTP(w, r)
	case ok:
		if !o.noETag {
			w.Header().Set("ETag", `"1"`)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
	default:
		http.NotFound(w, r)
	}
}

// set has fault answer what it wants to.
func (o *origin) set(fault func(w http.ResponseWriter, r *http.Request) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fault = fault
}

// down has the origin answer nothing any more.
func (o *origin) down() {
	o.set(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
}

// gave returns body bytes and requests of a kind: nar, eris, uri-res.
func (o *origin) gave(kind string) (bytes, requests int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.served[kind], o.asked[kind]
}

// counting counts the bytes of an answer.
type counting struct {
	http.ResponseWriter
	count func(n int)
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.count(n)
	return n, err
}

// machine is a node without its faces.
type machine struct {
	t     testing.TB
	dir   string
	o     Options
	named []string // peers
	quota int64
	log   lockedBuffer
	url   string // where it serves its blocks, when it shares

	store  *keep.Store
	client *upstream.Client
	book   *fetch.Book
	trans  *Transfers
	close  func()
}

// stallOfRig is short, so that tests are.
const stallOfRig = 2 * time.Second

func newMachine(t testing.TB) *machine {
	m := &machine{t: t, dir: t.TempDir()}
	m.o.Stall = stallOfRig
	t.Cleanup(m.stop)
	return m
}

// start opens the node, with what an earlier one has left.
func (m *machine) start() *machine {
	t := m.t
	t.Helper()
	var err error
	log := slog.New(slog.NewTextHandler(&m.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	m.store, err = keep.Open(m.dir, keep.Options{Quota: m.quota, Log: log})
	must(t, err)
	hc := httpclient.New(httpclient.Options{Idle: m.o.Stall})
	m.client = upstream.New(hc, nil, upstream.Options{Stall: m.o.Stall})
	m.book, err = fetch.OpenBook(m.dir+"/sources.json", fetch.BookOptions{Log: log})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	o := m.o
	o.Log = log
	if len(m.named) > 0 {
		set, err := peers.New(hc, m.named, nil, m.book, peers.Options{Log: log})
		must(t, err)
		work.Go(func() { set.Run(ctx) })
		o.Peers = set
	}
	m.trans = New(m.store, m.client, m.book, o)
	m.close = func() {
		cancel()
		closing(t, m.trans)
		work.Wait()
		must(t, m.book.Save())
		closing(t, m.client)
		hc.CloseIdleConnections()
		closing(t, m.store)
	}
	return m
}

func (m *machine) stop() {
	if m.close != nil {
		m.close()
		m.close = nil
	}
}

// share serves the machine's blocks to peers; wrap may put faults before that.
func (m *machine) share(wrap func(http.Handler) http.Handler) string {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		b := m.store.Blocks(nil)
		if r.URL.Path == peer.HavePath {
			peer.Handler(func(_ context.Context, h [32]byte) *peer.Held {
				held, ok := b.Have(h)
				if !ok {
					return nil
				}
				return (*peer.Held)(&held)
			}).ServeHTTP(w, r)
			return
		}
		n2r.Handler(b).ServeHTTP(w, r)
	})
	var h http.Handler = mux
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	m.t.Cleanup(s.Close)
	m.url = s.URL
	return m.url
}

// get reads the whole nar.
func (m *machine) get(w node.Want) ([]byte, error) {
	n, err := m.trans.Get(m.t.Context(), w)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(n)
	return b, errors.Join(err, n.Close())
}

// gets wants the item to come.
func (m *machine) gets(x *thing, servers ...string) {
	m.t.Helper()
	m.receives(x, x.want(m.t, servers...))
}

// receives wants what is asked for to come.
func (m *machine) receives(x *thing, w node.Want) {
	m.t.Helper()
	b, err := m.get(w)
	if err != nil {
		m.t.Fatalf("%v\n%s", err, m.log.String())
	}
	if !bytes.Equal(b, x.nar) {
		m.t.Fatalf("%d bytes, not the %d of the nar", len(b), len(x.nar))
	}
}

// settled waits until nothing is on the way.
func (m *machine) settled() {
	for {
		m.trans.mu.Lock()
		var any *item
		for _, i := range m.trans.items {
			any = i
		}
		m.trans.mu.Unlock()
		if any == nil {
			return
		}
		any.over(m.t.Context())
	}
}

// joined waits until so many want what is on the way.
func (m *machine) joined(n int) {
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		m.trans.mu.Lock()
		users := 0
		for _, i := range m.trans.items {
			i.mu.Lock()
			users += i.users
			i.mu.Unlock()
		}
		m.trans.mu.Unlock()
		if users == n {
			tick.Stop()
			return
		}
	}
}

// keeps wants the item to be kept.
func (m *machine) keeps(x *thing) keep.Item {
	m.t.Helper()
	m.settled()
	i, err := m.store.Get(x.fields.StorePath.Hash)
	if err != nil || i.NarHash != x.fields.NarHash {
		m.t.Fatalf("%+v, %v\n%s", i, err, m.log.String())
	}
	return i
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var zeroTime time.Time

func newReader(b []byte) io.ReadSeeker { return bytes.NewReader(b) }

// breaking breaks the connection after so many bytes.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	n, err := b.ResponseWriter.Write(p[:min(len(p), b.left)])
	if b.left -= n; b.left == 0 && err == nil {
		if f, ok := b.ResponseWriter.(*counting); ok {
			http.NewResponseController(f.ResponseWriter).Flush()
		}
		panic(http.ErrAbortHandler)
	}
	return n, err
}
