package bitswap_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/boxo/bitswap/message"
	pb "github.com/ipfs/boxo/bitswap/message/pb"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-msgio"
	"github.com/multiformats/go-multihash"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/transport/bitswap"
	"ersatz/internal/transport/transporttest"
)

// count fetches from a session, verifies, and returns how many blocks came.
func count(t *testing.T, s block.Session, refs []eris.Ref) (int, error) {
	t.Helper()
	var n atomic.Int64
	err := s.Fetch(t.Context(), eris.Size32KiB, refs, func(i int, b []byte) error {
		if eris.BlockRef(b) != refs[i] {
			return eris.ErrCorrupt
		}
		n.Add(1)
		return nil
	})
	return int(n.Load()), err
}

// part is a Library that has some of the blocks of another.
func part(lib block.Getter, has []eris.Ref) block.Getter {
	some := blocktest.Blocks{}
	for _, ref := range has {
		some[ref], _ = lib.Get(context.Background(), ref)
	}
	return some
}

// TestSeveralPeers has each block at one of three peers; a fourth has none, a fifth
// gives wrong ones, and nobody is at the address of the sixth.
func TestSeveralPeers(t *testing.T) {
	lib, refs := transporttest.Blocks(t, 300)
	peers := []block.Getter{part(lib, refs[:100]), part(lib, refs[100:200]), part(lib, refs[150:]), nil}
	liar := blocktest.Blocks{}
	for i, ref := range refs {
		_, liar[ref] = blocktest.Make(eris.Size32KiB, uint64(5000+i))
	}
	o := bitswap.Options{Idle: 20 * time.Second}
	for _, p := range append(peers, liar) {
		o.Peers = append(o.Peers, start(t, p, bitswap.Options{Listen: []string{anyPort}}).Addrs()[0])
	}
	gone := start(t, nil, bitswap.Options{Listen: []string{anyPort}})
	o.Peers = append(o.Peers, gone.Addrs()[0])
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, start(t, nil, o), refs[0])
	begin := time.Now()
	for range 3 {
		if n, err := count(t, s, refs); err != nil || n != len(refs) {
			t.Errorf("%d of %d blocks, %v", n, len(refs), err)
		}
	}
	if n, err := count(t, s, []eris.Ref{{1}, refs[0], {2}}); err != nil || n != 1 {
		t.Errorf("%d blocks, %v: what all lack is no error", n, err)
	}
	if d := time.Since(begin); d > 15*time.Second {
		t.Errorf("it took %v: nobody is to be waited for", d)
	}
}

func TestNobodyToAsk(t *testing.T) {
	if s := start(t, nil, bitswap.Options{}).Open(block.Wanted{}); s != nil {
		t.Error("a session without any peer")
	}
}

// TestClosed: sessions and hosts that have ended say so, whatever is under way.
func TestClosed(t *testing.T) {
	lib, refs := transporttest.Blocks(t, 1)
	for _, end := range []string{"session", "host"} {
		h := start(t, nil, bitswap.Options{Peers: start(t, lib, bitswap.Options{Listen: []string{anyPort}}).Addrs()})
		s := open(t, h, refs[0])
		if n, err := count(t, s, refs); n != 1 || err != nil {
			t.Fatalf("%d blocks, %v", n, err)
		}
		if end == "host" {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		} else if err := s.Close(); err != nil {
			t.Error(err)
		}
		if n, err := count(t, s, refs); n != 0 || err == nil {
			t.Errorf("%s closed: %d blocks, %v", end, n, err)
		}
	}
}

// TestClosedInBetween ends a session, or its host, while it waits for a block.
func TestClosedInBetween(t *testing.T) {
	asked := make(chan struct{})
	slow := getter(func(ctx context.Context, ref eris.Ref) ([]byte, error) {
		select {
		case asked <- struct{}{}:
			<-ctx.Done()
		case <-ctx.Done():
		}
		return nil, ctx.Err()
	})
	o := bitswap.Options{Peers: start(t, slow, bitswap.Options{Listen: []string{anyPort}}).Addrs()}
	for i, close := range []func(h *bitswap.Host, s block.Session) error{
		func(h *bitswap.Host, s block.Session) error { return s.Close() },
		func(h *bitswap.Host, s block.Session) error { return h.Close() },
	} {
		h := start(t, nil, o)
		s := open(t, h, eris.Ref{})
		var work sync.WaitGroup
		work.Go(func() {
			if n, err := count(t, s, []eris.Ref{{byte(i)}}); n != 0 || err == nil {
				t.Errorf("%d blocks, %v", n, err)
			}
		})
		<-asked
		begin := time.Now()
		if err := close(h, s); err != nil {
			t.Error(err)
		}
		work.Wait()
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("it took %v", d)
		}
		if i == 0 {
			continue
		}
		if _, err := count(t, open(t, h, eris.Ref{}), []eris.Ref{{}}); err == nil {
			t.Error("a host that has ended gives no error")
		}
	}
}

type getter func(ctx context.Context, ref eris.Ref) ([]byte, error)

func (g getter) Get(ctx context.Context, ref eris.Ref) ([]byte, error) { return g(ctx, ref) }

// gate is a Limiter that lets so many bytes pass.
type gate struct {
	mu   sync.Mutex
	left int
}

func (g *gate) WaitN(ctx context.Context, n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left < n {
		return errors.New("no more")
	}
	g.left -= n
	return nil
}

// TestLimiter: no block leaves before the Limiter has let it pass.
func TestLimiter(t *testing.T) {
	lib, refs := transporttest.Blocks(t, 20)
	g := &gate{left: 7*32<<10 + 5}
	from := start(t, lib, bitswap.Options{Listen: []string{anyPort}, Limiter: g})
	s := open(t, start(t, nil, bitswap.Options{Peers: from.Addrs(), Idle: time.Second}), refs[0])
	if n, err := count(t, s, refs); n != 7 || err == nil {
		t.Errorf("%d blocks, %v; 7 may pass", n, err)
	}
	if st := from.Status(); st.BlocksSent != 7 || st.BytesSent != 7*32<<10 {
		t.Errorf("status %+v", st)
	}
}

func TestOptions(t *testing.T) {
	_, err := bitswap.New(t.Context(), nil, bitswap.Options{
		Listen: []string{"0.0.0.0:4001"}, Peers: []string{"/ip4/127.0.0.1/tcp/1"}, DHT: "on", Bootstrap: []string{"x"}, Relays: []string{""},
	})
	if !errors.Is(err, bitswap.ErrOptions) {
		t.Errorf("error %v", err)
	}
	for _, part := range []string{"listen", `"/ip4/127.0.0.1/tcp/1"`, `"on"`, `"x"`, `""`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v does not name %s", err, part)
		}
	}
	if list := bitswap.PublicBootstrap(); len(list) < 4 || !strings.HasPrefix(list[0], "/dnsaddr/") {
		t.Errorf("public peers: %q", list)
	}
}

// TestSameID: a host is the same one after a restart.
func TestSameID(t *testing.T) {
	dir := t.TempDir()
	ids := map[string]bool{}
	for range 3 {
		h := start(t, nil, bitswap.Options{State: dir})
		ids[h.ID()] = true
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(ids) != 1 {
		t.Errorf("%d identities", len(ids))
	}
}

// raw is a peer that sends what it likes.
func raw(t *testing.T, to *bitswap.Host) (host.Host, func() network.Stream) {
	t.Helper()
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.DisableMetrics(), libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	info, err := peer.AddrInfoFromString(to.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Connect(t.Context(), *info); err != nil {
		t.Fatal(err)
	}
	return h, func() network.Stream {
		s, err := h.NewStream(t.Context(), info.ID, "/ipfs/bitswap/1.2.0")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

// TestHostilePeer sends nonsense, messages that are too long, and thousands of
// wants for what is not there: others are served all the same.
func TestHostilePeer(t *testing.T) {
	lib, refs := transporttest.Blocks(t, 5)
	h := start(t, lib, bitswap.Options{Listen: []string{anyPort}})
	bad, stream := raw(t, h)
	answers := make(chan message.BitSwapMessage, 10_000)
	bad.SetStreamHandler("/ipfs/bitswap/1.2.0", func(s network.Stream) {
		for r := msgio.NewVarintReaderSize(s, 4<<20); ; {
			m, _, err := message.FromMsgReader(r)
			if err != nil {
				return
			}
			answers <- m
		}
	})
	for _, text := range []string{
		"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x80\x80\x80\x08", "\x05nonsense", "\x00", "\x02\x0a\x7f", strings.Repeat("\x01", 1000),
	} {
		s := stream()
		if _, err := s.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		s.CloseWrite()
	}
	m := message.New(true)
	sum, err := multihash.Sum([]byte("other"), multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	odd := []cid.Cid{cid.NewCidV1(cid.Raw, sum), cid.NewCidV0(sum), cid.NewCidV1(cid.DagCBOR, cidOf(t, refs[0]).Hash())}
	for _, c := range odd {
		m.AddEntry(c, 1, pb.Message_Wantlist_Block, true)
	}
	for i := range 3000 {
		m.AddEntry(cidOf(t, eris.Ref{1, byte(i), byte(i >> 8)}), 1, pb.Message_Wantlist_Have, true)
	}
	if err := m.ToNetV1(stream()); err != nil {
		t.Fatal(err)
	}
	m = message.New(false)
	m.AddEntry(cidOf(t, refs[1]), 2, pb.Message_Wantlist_Have, true)
	m.AddEntry(cidOf(t, refs[2]), 3, pb.Message_Wantlist_Block, true)
	if err := m.ToNetV1(stream()); err != nil {
		t.Fatal(err)
	}
	have, blocks := false, 0
	for !have || blocks == 0 {
		select {
		case a := <-answers:
			have = have || slices.Contains(a.Haves(), cidOf(t, refs[1]))
			for _, b := range a.Blocks() {
				if blocks++; !b.Cid().Equals(cidOf(t, refs[2])) {
					t.Errorf("was given %s", b.Cid())
				}
			}
			for _, c := range a.Haves() {
				if !c.Equals(cidOf(t, refs[1])) {
					t.Errorf("was told of %s", c)
				}
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("have %v, %d blocks", have, blocks)
		}
	}
	s := open(t, start(t, nil, bitswap.Options{Peers: h.Addrs()}), refs[0])
	if n, err := count(t, s, refs); n != len(refs) || err != nil {
		t.Errorf("%d blocks, %v", n, err)
	}
}
