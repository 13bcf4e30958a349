// Package node is the HTTP side of `ersatz node`: substitutes for this
// machine's stock clients, what is shared for other machines, and the Unix
// socket of ersatz-substitute. docs/node.md describes all three.
//
// It decides who gets what and in which words. Which way the bytes come, and
// that they are right, is the business of who implements Transfers.
package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"ersatz/internal/keep"
	"ersatz/internal/metrics"
	"ersatz/internal/nodeapi"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/transport/peer"
	"ersatz/internal/upstream"
	"ersatz/internal/votes"
)

// How long clients may keep what they are told.
const (
	keptTTL      = time.Hour   // a narinfo of what is kept
	soon         = time.Minute // that an item cannot be had now
	negativeMost = time.Hour   // that nobody has it
)

// peerTime is how long peers have to say what they have.
const peerTime = 2 * time.Second

// Kept is what a node keeps. It is safe for concurrent use.
type Kept interface {
	// Get returns the item with a hash part. The error matches keep.ErrNone.
	Get(hash string) (keep.Item, error)
	// Usage returns what is kept in all.
	Usage() keep.Usage
	// Blocks returns the blocks of the items and parts that allow lets out; nil
	// means all.
	Blocks(allow func(keep.Item) bool) Blocks
}

// Blocks are the blocks of what is kept, or of a part of it.
type Blocks interface {
	n2r.Blocks
	// Have returns what there is of a nar.
	Have(narHash [32]byte) (keep.Held, bool)
}

// Keep makes a Kept of a Store.
func Keep(s *keep.Store) Kept { return kept{s} }

type kept struct{ *keep.Store }

func (k kept) Blocks(allow func(keep.Item) bool) Blocks { return k.Store.Blocks(allow) }

// Client asks upstreams: *upstream.Client. It is safe for concurrent use.
type Client interface {
	AskHash(ctx context.Context, servers []*upstream.Server, hash string) []upstream.Answer
	Open(ctx context.Context, sv *upstream.Server, ref string) (*upstream.Body, error)
}

// Options are what may be left out.
type Options struct {
	// Keys returns those whose narinfos count for clients of the loopback
	// server. It is asked anew each time. Default: all narinfos count, signed
	// or not, since the client judges.
	Keys func() (Keys, error)

	// Votes returns the policy of how many keys have to agree before a narinfo
	// counts for them; without Keys, the policy's own keys count. It is asked
	// anew each time. Default: one key is enough.
	Votes func() (votes.Policy, error)

	// Share says who else is served, and ShareKeys what: items that one of
	// these keys has signed. Default: nobody, nothing.
	Share     Share
	ShareKeys Keys

	// Upload bounds what other machines get together: a limit of NewLimiter, which
	// others may share. Default: no limit.
	Upload *rate.Limiter

	// PeerServers returns who is asked for a narinfo that no upstream has, or none
	// that counts: those of upstream.ParsePeer. Default: nobody.
	PeerServers func() []*upstream.Server

	// NearServers returns whom Join asks: substitute servers on the local network.
	// The caller owns the slice. Default: nobody.
	NearServers func() []*upstream.Server

	// Have returns what POST /v1/have answers: what peers hold of nars, by their
	// hashes. Default: nothing.
	Have func(ctx context.Context, narHashes [][32]byte) [][]nodeapi.Claim

	// Peers returns what GET /v1/peers answers. Default: nothing.
	Peers func() []nodeapi.Peer

	// Networks returns what GET /v1/status says of stores and networks. Default:
	// nothing.
	Networks func() []nodeapi.Network

	// Requests counts what is answered, and Metrics answers this machine's
	// clients with that and all else that is counted. Default: neither.
	Requests *metrics.Requests
	Metrics  http.Handler

	// Version and Listen, addresses, are what GET /v1/status says of the node.
	// Default: nothing.
	Version string
	Listen  []string

	// Log is told what an operator acts on, and of requests at level debug.
	// Default: nothing.
	Log *slog.Logger

	// Now returns the time. Default time.Now.
	Now func() time.Time
}

// Node answers requests. Its handlers are safe for concurrent use.
type Node struct {
	dir       string // state folder
	store     Kept
	transfers Transfers
	client    Client
	upstreams *upstreams
	o         Options
	log       *slog.Logger
	upload    *rate.Limiter // of other machines; nil: none
	all       blockHandlers // for this machine
	shared    blockHandlers // for others
	refs      *refs
	started   time.Time
	signers   signers

	readingFirst slots // of who may fill a usual store: requests of the socket that are being read
	reading      slots // of others
	haves        slots // requests for which peers are asked what they hold
}

// New returns a node that asks the servers for what is not kept. It asks them
// for their store folders, for 5 seconds at most, if those of all are not known
// from before, and keeps the answers in the folder dir. The error matches
// ErrConflict if two upstreams cannot be served together.
func New(ctx context.Context, dir string, store Kept, transfers Transfers, client Client, servers []*upstream.Server, o Options) (*Node, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.PeerServers == nil {
		o.PeerServers = func() []*upstream.Server { return nil }
	}
	if o.NearServers == nil {
		o.NearServers = func() []*upstream.Server { return nil }
	}
	if o.Have == nil {
		o.Have = func(_ context.Context, narHashes [][32]byte) [][]nodeapi.Claim {
			return make([][]nodeapi.Claim, len(narHashes))
		}
	}
	if o.Peers == nil {
		o.Peers = func() []nodeapi.Peer { return nil }
	}
	if o.Networks == nil {
		o.Networks = func() []nodeapi.Network { return nil }
	}
	n := &Node{
		dir: dir, store: store, transfers: transfers, client: client, o: o, log: o.Log,
		upload: o.Upload, started: o.Now(),
		readingFirst: make(slots, maxBodies), reading: make(slots, maxBodies), haves: make(slots, maxHaves),
	}
	n.refs = newRefs(n)
	n.all = newBlockHandlers(store.Blocks(nil))
	n.shared = newBlockHandlers(store.Blocks(func(i keep.Item) bool {
		_, ok := o.ShareKeys.Shares(i)
		return ok
	}))
	var err error
	if n.upstreams, err = newUpstreams(filepath.Join(dir, "upstreams.json"), servers, client, n.log); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	if err := n.upstreams.start(ctx); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	return n, nil
}

// blockHandlers answer those who ask for blocks.
type blockHandlers struct{ blocks, have http.Handler }

func newBlockHandlers(b Blocks) blockHandlers {
	return blockHandlers{n2r.Handler(b), peer.Handler(func(_ context.Context, narHash [32]byte) *peer.Held {
		held, ok := b.Have(narHash)
		if !ok {
			return nil
		}
		return (*peer.Held)(&held)
	})}
}

// Run does what is to be done beside requests until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error {
		n.upstreams.run(ctx)
		return nil
	})
	group.Go(func() error {
		n.refs.run(ctx)
		return nil
	})
	return group.Wait()
}
