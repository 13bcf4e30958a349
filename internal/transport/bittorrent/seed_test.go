package bittorrent_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/torrent"
	"ersatz/internal/transport/bittorrent"
)

// slow lets some 4 MiB/s go.
type slow struct{}

func (slow) WaitN(ctx context.Context, n int) error {
	select {
	case <-time.After(time.Duration(n) * time.Second / (4 << 20)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func shared(tr *tree, link string) block.Shared {
	return block.Shared{ReadCap: tr.cap, Length: tr.length, Magnet: link}
}

// TestOffer offers, offers again, and takes back.
func TestOffer(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 2_000_000)
	link := magnet(tr.info(t))
	c, addr := seed(t, tr, link, bittorrent.Options{})
	get := func() error {
		s := open(t, start(t, bittorrent.Options{Idle: 3 * time.Second}), tr, magnet(tr.info(t), peer(addr)))
		return gives(t.Context(), s, tr, tr.every()...)
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	if err := c.Offer(t.Context(), shared(tr, link), tr.open); err != nil {
		t.Error(err)
	}
	if s := c.Open(block.Wanted{ReadCap: tr.cap, Magnet: link, Where: tr.where}); s != nil {
		t.Error("what is seeded here is fetched")
	}
	for range 2 { // the second time it is not offered
		if err := c.Withdraw(t.Context(), shared(tr, link)); err != nil {
			t.Error(err)
		}
	}
	if err := get(); !errors.Is(err, errMissing) {
		t.Errorf("taken back, and got %v", err)
	}
	if err := c.Offer(t.Context(), shared(tr, link), tr.open); err != nil {
		t.Error(err)
	}
	if err := get(); err != nil {
		t.Error(err)
	}
}

// TestOfferRefuses what is not what it is said to be.
func TestOfferRefuses(t *testing.T) {
	t.Parallel()
	tr, other := makeTree(t, eris.Size32KiB, 300_000), makeTree(t, eris.Size32KiB, 300_001)
	broken := errors.New("disk is broken")
	for name, tt := range map[string]struct {
		s    block.Shared
		open func(context.Context) (block.Content, error)
		want error
	}{
		"no magnet link":      {shared(tr, ""), tr.open, nil},
		"a bad magnet link":   {shared(tr, "magnet:?"), tr.open, torrent.ErrMalformed},
		"another's":           {shared(tr, magnet(other.info(t))), tr.open, bittorrent.ErrOther},
		"another content":     {shared(tr, magnet(tr.info(t))), other.open, bittorrent.ErrOther},
		"another root":        {shared(other, magnet(tr.info(t))), tr.open, bittorrent.ErrOther},
		"gone":                {shared(tr, magnet(tr.info(t))), func(context.Context) (block.Content, error) { return nil, eris.ErrNotFound }, eris.ErrNotFound},
		"broken":              {shared(tr, magnet(tr.info(t))), func(context.Context) (block.Content, error) { return failing{content{tr, nil}, broken}, nil }, broken},
		"one that knows less": {shared(tr, magnet(tr.info(t))), func(context.Context) (block.Content, error) { return ignorant{content{tr, nil}}, nil }, nil},
	} {
		c := start(t, bittorrent.Options{MaxSeeds: 1})
		if err := c.Offer(t.Context(), tt.s, tt.open); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		err := c.Offer(t.Context(), shared(other, magnet(other.info(t))), other.open)
		if full := tt.want == nil && tt.s.Magnet != ""; errors.Is(err, bittorrent.ErrFull) != full || !full && err != nil {
			t.Errorf("%s, and then another: %v", name, err)
		}
	}
}

type failing struct {
	content
	err error
}

func (f failing) Block(context.Context, int64) (eris.Ref, []byte, error) {
	return eris.Ref{}, nil, f.err
}

type ignorant struct{ content }

func (ignorant) Torrent(context.Context) (torrent.Info, error) { return torrent.Info{}, fs.ErrNotExist }

// TestSeedMany seeds more contents than may be open at a time, and has them all
// fetched at once.
func TestSeedMany(t *testing.T) {
	t.Parallel()
	c := start(t, bittorrent.Options{Listen: "127.0.0.1:0"})
	getter := start(t, bittorrent.Options{Idle: time.Minute, Peers: []string{c.Addr().String()}})
	var opened count
	trees := make([]*tree, 60)
	for i := range trees {
		tr := makeTree(t, eris.Size32KiB, int64(600_000+i))
		trees[i] = tr
		err := c.Offer(t.Context(), shared(tr, magnet(tr.info(t))), func(context.Context) (block.Content, error) {
			opened.add(1)
			return content{tr, &opened}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	results := make(chan error, len(trees))
	for _, tr := range trees {
		s := open(t, getter, tr, magnet(tr.info(t)))
		go func() { results <- gives(t.Context(), s, tr, tr.every()...) }()
	}
	for range trees {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if opened.most > 17 { // one is hashed when it is offered
		t.Errorf("%d contents were open at once", opened.most)
	}
	for _, tr := range trees[:30] {
		if err := c.Withdraw(t.Context(), shared(tr, magnet(tr.info(t)))); err != nil {
			t.Error(err)
		}
	}
	c.Close()
	within(t, 5*time.Second, "all are closed", func() bool {
		opened.mu.Lock()
		defer opened.mu.Unlock()
		return opened.now == 0
	})
}

// TestSeedLoses has a block of a seed turn out to be corrupt or gone: peers are
// given all other pieces, and nothing wrong.
func TestSeedLoses(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{"corrupt": eris.ErrCorrupt, "gone": eris.ErrNotFound, "unreadable": errors.New("disk is broken")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := makeTree(t, eris.Size32KiB, 2_000_000)
			info := tr.info(t)
			bad := *tr
			bad.blocks = getter(func(ctx context.Context, ref eris.Ref) ([]byte, error) {
				if ref == tr.refs[20] {
					return nil, fmt.Errorf("block: %w", err)
				}
				return tr.blocks.Get(ctx, ref)
			})
			c := start(t, bittorrent.Options{Listen: "127.0.0.1:0"})
			if err := c.Offer(t.Context(), shared(tr, magnet(info)), func(context.Context) (block.Content, error) {
				return withInfo{content{&bad, nil}, info}, nil
			}); err != nil {
				t.Fatal(err)
			}
			s := open(t, start(t, bittorrent.Options{Idle: time.Second, Peers: []string{c.Addr().String()}}), tr, magnet(info))
			if err := gives(t.Context(), s, tr, 20); !errors.Is(err, errMissing) {
				t.Errorf("got %v", err)
			}
			good := append(tr.every()[:16], tr.every()[24:]...)
			within(t, 10*time.Second, "all others come", func() bool { return gives(t.Context(), s, tr, good...) == nil })
		})
	}
}

// TestLimit wants what is sent to peers to be asked of the Limiter.
func TestLimit(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 1_000_000)
	var n counter
	_, addr := seed(t, tr, magnet(tr.info(t)), bittorrent.Options{Limit: &n})
	wants(t, open(t, start(t, bittorrent.Options{}), tr, magnet(tr.info(t), peer(addr))), tr, tr.every()...)
	if got := n.n.Load(); got < tr.info(t).Length || got > 2*tr.info(t).Length {
		t.Errorf("%d bytes of %d were asked for", got, tr.info(t).Length)
	}
	if n.most.Load() > 16<<10 {
		t.Errorf("%d bytes were asked for at once", n.most.Load())
	}
}

type counter struct{ n, most atomic.Int64 }

func (c *counter) WaitN(_ context.Context, n int) error {
	c.n.Add(int64(n))
	c.most.Store(max(c.most.Load(), int64(n)))
	return nil
}

// TestWithdrawWhileReading takes seeds back while peers read from them, which
// must not end the program, nor give anybody wrong bytes.
func TestWithdrawWhileReading(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 4_000_000)
	link := magnet(tr.info(t))
	c, addr := seed(t, tr, link, bittorrent.Options{Limit: slow{}})
	for range 4 {
		s := open(t, start(t, bittorrent.Options{Idle: 500 * time.Millisecond, Peers: []string{addr}}), tr, link)
		done := make(chan error, 1)
		go func() { done <- gives(t.Context(), s, tr, tr.every()...) }()
		<-time.After(50 * time.Millisecond)
		if err := c.Withdraw(t.Context(), shared(tr, link)); err != nil {
			t.Error(err)
		}
		if err := c.Offer(t.Context(), shared(tr, link), tr.open); err != nil {
			t.Error(err)
		}
		if err := <-done; errors.Is(err, eris.ErrCorrupt) {
			t.Error(err)
		}
	}
}
