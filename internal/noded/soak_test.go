package noded

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/internal/nodeapi"
)

const (
	soakNodes   = 3
	soakClients = 6

	// hangs is how long a request can take that will end: a source may be waited
	// for several times, and turns too.
	hangs = 3 * time.Minute
)

// soak is a network of nodes with an origin, under load and faults.
type soak struct {
	t      *testing.T
	long   bool
	origin *soakOrigin
	nodes  []*soakNode
	http   *http.Client
	ours   []*nodeapi.Client // of the nodes' sockets
	counts counts

	mu   sync.Mutex
	peak level
}

// counts are what has happened, by name.
type counts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counts) add(name string, n int) {
	c.mu.Lock()
	c.n[name] += n
	c.mu.Unlock()
}

// TestSoak has nodes that share live with clients that give up, an origin that
// goes, lies and stalls, peers that do the same, small quotas, restarts and
// damaged files. What comes whole is right, what is kept is right, and nothing is
// left over: goroutines, open files, memory, disk. ERSATZ_LONG is for how many
// minutes. With the same ERSATZ_SEED the same is chosen, though not at the same
// moments.
func TestSoak(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("ERSATZ_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		check(t, err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("ERSATZ_SEED=%d", seed)
		}
	}()
	minutes, err := strconv.ParseFloat(cmp.Or(os.Getenv("ERSATZ_LONG"), "0"), 64)
	check(t, err)
	s := newSoak(t, seed, minutes > 0)
	rounds, ops := 2, 6
	if s.long {
		rounds, ops = 1<<30, 200
	}
	end := time.Now().Add(time.Duration(minutes * float64(time.Minute)))
	var first, most level // with the nodes ended
	for round := range rounds {
		s.round(seed+uint64(round)<<32, ops)
		now := s.settled(first)
		most = most.max(now)
		if round == 0 {
			first = now
		}
		if t.Failed() || s.long && time.Now().After(end) {
			t.Logf("%d rounds", round+1)
			break
		}
	}
	if !t.Failed() {
		s.all()
	}
	for _, name := range []string{"nar, whole", "restart", "log DEBUG evicted", "blocks from peers"} {
		if s.long && s.counts.n[name] == 0 {
			t.Errorf("%s: never", name)
		}
	}
	s.settled(first)
	t.Logf("%+v in use after the first round, %+v at most after others, %+v at most within", first, most, s.peak)
	for _, name := range slices.Sorted(maps.Keys(s.counts.n)) {
		t.Logf("%7d %s", s.counts.n[name], name)
	}
}

func newSoak(t *testing.T, seed uint64, long bool) *soak {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 0))
	items, quota, lieFrom, large := 16, int64(1<<20), 4<<10, []int{1 << 20, 2 << 20, 1 << 19, 1 << 19}
	if long {
		// A lie in the head of an answer may be that more comes, for which somebody
		// waits 10 seconds.
		items, quota, lieFrom, large = 96, 4<<20, 64, []int{1 << 20, 12 << 20, 3 << 20, 3 << 20, 5 << 20, 2 << 20}
	}
	s := &soak{t: t, long: long, counts: counts{n: map[string]int{}}, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: soakClients}}}
	s.origin = newSoakOrigin(t, rng, items, large)
	for range soakNodes {
		dir := t.TempDir()
		n := &soakNode{
			t: t, dir: filepath.Join(dir, "state"), socket: filepath.Join(dir, "s"), quota: quota, origin: s.origin,
			wire: newLine(t, lieFrom), door: newLine(t, 0), log: slog.New(counting{&s.counts, s.origin.url()}), damaged: map[string]bool{},
		}
		s.nodes = append(s.nodes, n)
		s.ours = append(s.ours, nodeapi.New(n.socket, hangs))
	}
	for _, n := range s.nodes {
		for _, other := range s.nodes {
			if other != n {
				n.peers = append(n.peers, other.wire.url())
			}
		}
	}
	return s
}

// counting counts what is logged, and the blocks that sources gave.
type counting struct {
	counts *counts
	origin string // its URL
}

func (c counting) Enabled(context.Context, slog.Level) bool { return true }
func (c counting) WithAttrs([]slog.Attr) slog.Handler       { return c }
func (c counting) WithGroup(string) slog.Handler            { return c }

func (c counting) Handle(_ context.Context, r slog.Record) error {
	c.counts.add("log "+r.Level.String()+" "+r.Message, 1)
	from, blocks := "peers", int64(0)
	r.Attrs(func(a slog.Attr) bool {
		switch {
		case a.Key == "source" && a.Value.String() == c.origin:
			from = "the origin"
		case a.Key == "blocks":
			blocks = a.Value.Int64()
		}
		return true
	})
	c.counts.add("blocks from "+from, int(blocks))
	return nil
}

// round starts all nodes, has each client do ops things while others break, and
// ends the nodes.
func (s *soak) round(seed uint64, ops int) {
	for _, n := range s.nodes {
		n.start()
	}
	ctx, over := context.WithCancel(context.Background())
	var clients, chaos sync.WaitGroup
	for k := range soakClients {
		clients.Go(func() {
			c := &soakClient{soak: s, rng: rand.New(rand.NewPCG(seed, uint64(k)+1))}
			for range ops {
				c.act()
			}
		})
	}
	for k := range 2 {
		chaos.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(k)+100))
			for ctx.Err() == nil {
				s.disturb(ctx, rng)
			}
		})
	}
	clients.Wait()
	over()
	chaos.Wait()
	s.endAll()
}

func (s *soak) endAll() {
	for _, n := range s.nodes {
		n.end()
	}
	s.http.CloseIdleConnections()
	for _, c := range s.ours {
		c.Close()
	}
}

// disturb breaks something for a while.
func (s *soak) disturb(ctx context.Context, rng *rand.Rand) {
	s.measure()
	lasts := time.Duration(20+rng.IntN(400)) * time.Millisecond
	if s.long && rng.IntN(40) == 0 {
		lasts = 15 * time.Second // longer than anybody waits for a source
	}
	ctx, cancel := context.WithTimeout(ctx, lasts)
	defer cancel()
	n := s.nodes[rng.IntN(len(s.nodes))]
	f := fault(1 + rng.IntN(int(torn)))
	switch rng.IntN(8) {
	case 0, 1:
		s.counts.add("fault of the origin", 1)
		s.origin.trouble(ctx, f)
	case 2, 3:
		s.counts.add("fault of a peer", 1)
		n.wire.trouble(ctx, f)
	case 4, 5:
		n.mu.Lock()
		defer n.mu.Unlock()
		s.counts.add("restart", 1)
		n.end()
		s.counts.add("file damaged", n.damage(rng))
		n.start()
	case 6:
		n.mu.Lock()
		defer n.mu.Unlock()
		s.counts.add("fsck beside a node", 1)
		n.fsck(false)
	default:
		<-ctx.Done()
	}
}

// all wants each node to have each item to give, when nothing is wrong any more.
func (s *soak) all() {
	for _, n := range s.nodes {
		n.start()
	}
	var work sync.WaitGroup
	for k := range s.nodes {
		work.Go(func() {
			c := &soakClient{soak: s, rng: rand.New(rand.NewPCG(0, uint64(k)))}
			for _, i := range s.origin.items {
				ctx, cancel := context.WithTimeout(context.Background(), hangs)
				if err := c.fromSocket(ctx, k, i, -1); err != nil {
					s.t.Errorf("%s: %v", i.info.Path, err)
				}
				cancel()
			}
		})
	}
	work.Wait()
	s.endAll()
}

// soakClient is one of this machine's.
type soakClient struct {
	*soak
	rng *rand.Rand
}

// item returns one of the items, some of them often.
func (c *soakClient) item() *soakItem {
	n := len(c.origin.items)
	return c.origin.items[min(c.rng.IntN(n), c.rng.IntN(n))]
}

// act does one thing. It may fail: who is asked may be down.
func (c *soakClient) act() {
	ctx, cancel := context.WithTimeout(context.Background(), hangs)
	defer cancel()
	k, i, kind := c.rng.IntN(len(c.nodes)), c.item(), c.rng.IntN(20)
	most := int64(-1)
	if c.rng.IntN(5) == 0 {
		most = c.rng.Int64N(int64(i.info.NarSize))
	}
	name := "nar by the socket"
	var err error
	switch {
	case kind < 8:
		name = "nar over loopback"
		err = c.overLoopback(ctx, k, i, most)
	case kind < 14:
		err = c.fromSocket(ctx, k, i, most)
	case kind < 17:
		name = "query, then a nar"
		err = c.query(ctx, k)
	case kind < 19:
		name = "question"
		err = c.ask(ctx, k, i)
	default:
		name = "nar, in a hurry"
		ctx, cancel := context.WithTimeout(ctx, time.Duration(c.rng.IntN(100))*time.Millisecond)
		defer cancel()
		err = c.fromSocket(ctx, k, i, most)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		c.t.Errorf("%s, %s: nothing after %v", name, i.info.Path, hangs)
		pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
	}
	c.counts.add(name, 1)
	if err != nil {
		c.counts.add(name+", failed", 1)
	}
}

// overLoopback gets a nar as stock clients do.
func (c *soakClient) overLoopback(ctx context.Context, k int, i *soakItem, most int64) error {
	for _, name := range []string{"/" + i.info.Path.Hash + ".narinfo", "/nar/" + i.info.Path.Base()} {
		res, err := c.get(ctx, c.nodes[k].door.url()+name)
		if err != nil {
			return err
		}
		if strings.HasSuffix(name, ".narinfo") {
			_, err = io.Copy(io.Discard, res.Body)
		} else {
			err = c.read(i, res.Body, most)
		}
		if err := errors.Join(err, res.Body.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (c *soakClient) get(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err == nil && res.StatusCode != http.StatusOK {
		res.Body.Close()
		err = errors.New(res.Status)
	}
	return res, err
}

func (c *soakClient) narinfos(items ...*soakItem) (all []nodeapi.Narinfo) {
	for _, i := range items {
		all = append(all, nodeapi.Narinfo{Server: c.origin.url(), Text: string(i.text)})
	}
	return all
}

// fromSocket gets a nar as ersatz-substitute does.
func (c *soakClient) fromSocket(ctx context.Context, k int, i *soakItem, most int64) error {
	n, err := c.ours[k].Nar(ctx, nodeapi.NarRequest{Path: i.info.Path.String(), Narinfos: c.narinfos(i)})
	if err != nil {
		return err
	}
	return errors.Join(c.read(i, n, most), n.Close())
}

// read reads most bytes of a nar, or all if most is negative: then it is right.
func (c *soakClient) read(i *soakItem, r io.Reader, most int64) error {
	if most >= 0 {
		_, err := io.CopyN(io.Discard, r, most)
		c.counts.add("nar, left in the middle", 1)
		return err
	}
	h := sha256.New()
	size, err := io.Copy(h, r)
	if err != nil {
		return err
	}
	if uint64(size) != i.info.NarSize || !bytes.Equal(h.Sum(nil), i.info.NarHash[:]) {
		c.t.Errorf("%s: a wrong nar of %d bytes came whole", i.info.Path, size)
	}
	c.counts.add("nar, whole", 1)
	return nil
}

// query says what may be asked for and asks for some of it.
func (c *soakClient) query(ctx context.Context, k int) error {
	at := c.rng.IntN(len(c.origin.items))
	items := c.origin.items[at:min(at+1+c.rng.IntN(8), len(c.origin.items))]
	err := c.ours[k].Ahead(ctx, nodeapi.AheadRequest{Narinfos: c.narinfos(items...)})
	for _, i := range items[:1+len(items)/2] {
		err = errors.Join(err, c.fromSocket(ctx, k, i, -1))
	}
	return err
}

// ask asks a node about itself and others.
func (c *soakClient) ask(ctx context.Context, k int, i *soakItem) error {
	_, herr := c.ours[k].Have(ctx, [][32]byte{i.info.NarHash})
	_, perr := c.ours[k].Peers(ctx)
	_, serr := c.ours[k].Status(ctx)
	res, err := c.get(ctx, c.nodes[k].door.url()+"/metrics")
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		err = errors.Join(err, res.Body.Close())
	}
	return errors.Join(herr, perr, serr, err)
}

// level is what the process uses.
type level struct {
	Goroutines, Files int
	Heap              uint64 // bytes
}

func (l level) max(o level) level {
	return level{max(l.Goroutines, o.Goroutines), max(l.Files, o.Files), max(l.Heap, o.Heap)}
}

// measure returns what is in use now.
func (s *soak) measure() level {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	now := level{runtime.NumGoroutine(), len(s.files()), m.HeapAlloc}
	s.mu.Lock()
	s.peak = s.peak.max(now)
	s.mu.Unlock()
	return now
}

// settled returns what is in use with all nodes ended, when that is no more than
// in a level, the zero one aside. What connections leave ends soon after them.
func (s *soak) settled(least level) (now level) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 200 {
		runtime.GC()
		last := now
		now = s.measure()
		if least == (level{}) && last == now || now.Goroutines <= least.Goroutines+2 && now.Files <= least.Files+2 && now.Heap <= least.Heap+8<<20 {
			return now
		}
		<-tick.C
	}
	if least != (level{}) {
		var b bytes.Buffer
		pprof.Lookup("goroutine").WriteTo(&b, 1)
		s.t.Errorf("%+v is in use, at first it was %+v\n%s\n%.20000s", now, least, strings.Join(s.files(), "\n"), b.String())
	}
	return now
}

// files returns what files and sockets are open, those of the origin's databases
// aside: it lives on, with more connections to them or fewer.
func (s *soak) files() (names []string) {
	const dir = "/proc/self/fd/"
	all, err := os.ReadDir(dir)
	check(s.t, err)
	for _, f := range all {
		name, err := os.Readlink(dir + f.Name())
		if err == nil && !strings.HasPrefix(name, s.origin.dir) { // that of ReadDir itself is gone
			names = append(names, name)
		}
	}
	return names
}
