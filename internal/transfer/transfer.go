// Package transfer fetches items for a node: each once, however many ask, by
// the best mix of peers, servers and networks, into what the node keeps. docs/node.md
// describes it: "A transfer", "When to use what", "Look-ahead", "Mirror".
package transfer

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ersatz/internal/fetch"
	"ersatz/internal/keep"
	"ersatz/internal/metrics"
	"ersatz/internal/node"
	"ersatz/internal/peers"
	"ersatz/internal/upstream"
	"ersatz/storepath"
)

const (
	// small is the NarSize in bytes up to which a request for the nar beats the
	// round trips of a tree.
	small = 1 << 20

	// maxAsked bounds the transfers of items that somebody waits for; more wait
	// for their turn. Each takes some MiB of memory.
	maxAsked = 24

	// linger is how long a transfer goes on that nobody wants any more: a client
	// that was killed comes again.
	linger = 10 * time.Second
)

// ErrClosed means that the node ends.
var ErrClosed = errors.New("node ends")

// Client opens what upstreams have: *upstream.Client. It is safe for
// concurrent use.
type Client interface {
	OpenNar(ctx context.Context, o upstream.Offer, of *upstream.Build) (*upstream.Body, error)
	OpenRange(ctx context.Context, sv *upstream.Server, ref string, r upstream.Range) (*upstream.Body, error)
	Blocks(sv *upstream.Server) (fetch.Source, bool)
}

// Peers are the other nodes: *peers.Set. It is safe for concurrent use.
type Peers interface {
	// Nodes returns those that may be asked now, the best first.
	Nodes() []*peers.Peer
	// Have asks all of them what they hold of nars.
	Have(ctx context.Context, narHashes [][32]byte) [][]peers.Claim
	// Source returns one as a source of blocks.
	Source(p *peers.Peer) fetch.Source
}

// Options are what of Transfers has a default.
type Options struct {
	// Policy says where bytes come from. Default Mixed.
	Policy Policy

	// Peers are other nodes. Default: there are none.
	Peers Peers

	// Networks are asked for items that they may have. Default: there are none.
	Networks []fetch.Network

	// Look finds an item that nobody has named yet: a reference of one that is
	// fetched ahead. Default: such are not fetched.
	Look func(ctx context.Context, p storepath.Path) (node.Want, error)

	// Join adds to an item that is about to be fetched who has it too and was not
	// asked when it was looked up. Only Mixed does that. Default: nobody.
	Join func(ctx context.Context, w node.Want) node.Want

	// Stall is how long a source may give nothing useful. Default
	// upstream.DefaultStall.
	Stall time.Duration

	// Count is told what was fetched. Default: nobody.
	Count *metrics.Transfers

	// Log is told of sources that fail, lie or are left out, and how each
	// transfer ended. Default: nothing.
	Log *slog.Logger

	// Now returns the time. Default time.Now.
	Now func() time.Time
}

// Transfers fetches items. It implements node.Transfers, and is safe for
// concurrent use.
type Transfers struct {
	store  *keep.Store
	client Client
	book   *fetch.Book
	o      Options
	log    *slog.Logger

	ctx   context.Context // of all transfers
	end   context.CancelFunc
	work  sync.WaitGroup
	slots chan struct{}

	mu    sync.Mutex
	items map[[32]byte]*item // that are on the way, by NarHash
	ended int                // how many were, and are no more
	ahead ahead
}

var _ node.Transfers = (*Transfers)(nil)

// New returns Transfers that fill store. book has what was learnt of sources,
// and learns. Close them before the store.
func New(store *keep.Store, client Client, book *fetch.Book, o Options) *Transfers {
	if o.Stall <= 0 {
		o.Stall = upstream.DefaultStall
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Policy == HTTPOnly {
		o.Peers, o.Networks = nil, nil
	}
	if o.Policy != Mixed || o.Join == nil {
		o.Join = func(_ context.Context, w node.Want) node.Want { return w }
	}
	ctx, end := context.WithCancel(context.Background())
	return &Transfers{
		store: store, client: client, book: book, o: o, log: o.Log,
		ctx: ctx, end: end, slots: make(chan struct{}, maxAsked), items: map[[32]byte]*item{},
		ahead: ahead{queued: map[storepath.Path]*list.Element{}, out: map[[32]byte]outstanding{}, said: map[[32]byte]said{}},
	}
}

// Close ends all transfers, and returns when they have ended. What has arrived
// stays.
func (t *Transfers) Close() error {
	t.mu.Lock()
	t.end()
	t.mu.Unlock()
	t.work.Wait()
	return nil
}

// Get implements node.Transfers.
func (t *Transfers) Get(ctx context.Context, w node.Want) (node.Nar, error) {
	b := w.Choice.Builds[0]
	if !b.Signed.HasNarSize {
		return nil, fmt.Errorf("%s: its NarSize is not known", w.Path)
	}
	if !w.Kept {
		t.asked(w)
	}
	r := &reader{t: t, ctx: ctx, want: w, size: int64(b.Signed.NarSize), sum: sha256.New()}
	if err := r.begin(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if !w.Kept {
		t.given(w)
	}
	return r, nil
}

// open returns what there is of an item: its file, if it is kept, or else the
// transfer of it, which is begun if need be. Who gets a transfer leaves it.
func (t *Transfers) open(w node.Want, ahead bool) (*keep.File, *item, error) {
	i, ended, err := t.join(w, ahead, -1)
	for i == nil && err == nil {
		// Not under the lock: while the item comes or goes, it waits for the disk.
		f, keptErr := t.kept(w)
		switch {
		case keptErr == nil:
			return f, nil, nil
		case w.Kept && errors.Is(keptErr, keep.ErrNone):
			return nil, nil, fmt.Errorf("%s is not kept: %w", w.Path, errors.Join(node.ErrNone, keptErr))
		case w.Kept:
			return nil, nil, keptErr
		case !errors.Is(keptErr, keep.ErrNone): // it is replaced when the item has come
			t.log.Warn("kept item cannot be read, and is fetched again", slog.String("store_path", w.Path.String()), slog.Any("error", keptErr))
		}
		i, ended, err = t.join(w, ahead, ended)
	}
	return nil, i, err
}

// join joins the transfer of an item. If there is none, it begins one, unless another
// number of transfers has ended by now: one that has ended well is in the store before
// it is gone, and this item's may be among them. It returns that number.
func (t *Transfers) join(w node.Want, ahead bool, ended int) (*item, int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return nil, 0, ErrClosed
	}
	i := t.items[w.Choice.Builds[0].Signed.NarHash]
	if i == nil && ended == t.ended {
		i = t.begin(w, ahead)
	}
	if i != nil {
		i.join(ahead)
	}
	return i, t.ended, nil
}

// kept opens the file of an item with the nar that is wanted.
func (t *Transfers) kept(w node.Want) (*keep.File, error) {
	want := w.Choice.Builds[0].Signed
	found, err := t.store.Get(w.Path.Hash)
	if err != nil || found.NarHash != want.NarHash {
		found, err = t.store.ByNarHash(want.NarHash)
	}
	if err != nil {
		return nil, err
	}
	f, err := t.store.Open(found.Path.Hash)
	if err != nil {
		return nil, err
	}
	if f.Item.NarHash != want.NarHash || uint64(f.Item.NarSize) != want.NarSize {
		return nil, errors.Join(fmt.Errorf("%s: another nar: %w", f.Item.Path, keep.ErrNone), f.Close())
	}
	return f, nil
}

// forget removes the item that kept finds.
func (t *Transfers) forget(ctx context.Context, w node.Want) error {
	f, err := t.kept(w)
	if errors.Is(err, keep.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), t.store.Remove(ctx, f.Item.Path.Hash))
}

// begin begins a transfer. The caller has t.mu.
func (t *Transfers) begin(w node.Want, ahead bool) *item {
	ctx, cancel := context.WithCancel(t.ctx)
	i := &item{
		t: t, want: w, build: w.Choice.Builds[0], cancel: cancel, asked: !ahead, changed: make(chan struct{}),
		bad: map[keep.PartID]bool{}, anew: map[keep.PartID]bool{}, waited: map[*upstream.Server]bool{},
		log: t.log.With(slog.String("store_path", w.Path.String())),
	}
	t.items[i.build.Signed.NarHash] = i
	t.work.Go(func() {
		defer cancel()
		err := i.run(ctx)
		t.mu.Lock()
		delete(t.items, i.build.Signed.NarHash)
		t.ended++
		t.mu.Unlock()
		i.finish(err)
	})
	return i
}
