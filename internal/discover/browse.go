package discover

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	firstQuery = time.Second      // between the first two questions of who is there
	lastQuery  = 10 * time.Minute // between two of them in the end
)

// Browser keeps a list of the peers on the local network. Its methods are safe
// for concurrent use.
type Browser struct {
	o       Options
	net     network
	changes chan struct{}

	mu    sync.Mutex
	peers []Peer
}

// New returns a browser that knows nobody until Run is called.
func New(o Options) *Browser {
	return &Browser{o: o.withDefaults(), net: system{}, changes: make(chan struct{}, 1)}
}

// Peers returns who is known now, at most Options.MaxPeers: nodes first, then
// by name. The caller owns the slice, but not the addresses in it.
func (b *Browser) Peers() []Peer {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.peers)
}

// Changes takes a value when the list has become another one since the last
// value was received. It is for one receiver.
func (b *Browser) Changes() <-chan struct{} { return b.changes }

// Run listens and asks until ctx ends, and returns nil. Interfaces may come
// and go meanwhile, and there may be none. It is called once.
func (b *Browser) Run(ctx context.Context) error {
	h := newHub(b.net, b.o)
	defer h.close()
	defer b.set(context.WithoutCancel(ctx), nil)
	t := newTable(b.o)
	look := time.Now()
	query, interval := look, firstQuery
	for {
		now := time.Now()
		if !now.Before(look) {
			if opened := h.refresh(ctx); len(opened) > 0 { // others may be there
				query, interval = now.Add(20*time.Millisecond+rand.N(100*time.Millisecond)), firstQuery
			}
			look = now.Add(rescan)
		}
		t.expire(now)
		b.set(ctx, t.peers(now, h.own))
		if !now.Before(query) {
			for _, k := range []Kind{Publish, Node} {
				q := message{questions: []question{{serviceName(k), typePTR}}}
				q.answers = t.known(now, k, maxSend-len(q.append(nil)))
				h.sendAll(ctx, q)
			}
			query, interval = now.Add(interval), min(interval*2, lastQuery)
		}
		for m := range batches(t.questions(now)) {
			h.sendAll(ctx, m)
		}
		wake := look
		for _, at := range []time.Time{query, t.wake()} {
			if !at.IsZero() && at.Before(wake) {
				wake = at
			}
		}
		timer := time.NewTimer(time.Until(wake))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case heard := <-h.in:
			if heard.response {
				t.add(time.Now(), heard)
			}
		case <-timer.C:
		}
		timer.Stop()
	}
}

// batches puts questions into messages that fit into a packet each.
func batches(all []question) func(yield func(message) bool) {
	return func(yield func(message) bool) {
		for len(all) > 0 {
			n, size := 0, headerSize
			for n < len(all) && size+len(all[n].name)+4 <= maxSend {
				size += len(all[n].name) + 4
				n++
			}
			if !yield(message{questions: all[:n]}) {
				return
			}
			all = all[n:]
		}
	}
}

// set replaces the list.
func (b *Browser) set(ctx context.Context, peers []Peer) {
	b.mu.Lock()
	before := b.peers
	b.peers = peers
	b.mu.Unlock()
	same := func(a, b Peer) bool {
		return a.Name == b.Name && a.Kind == b.Kind && a.URL == b.URL && slices.Equal(a.Addrs, b.Addrs)
	}
	if slices.EqualFunc(before, peers, same) {
		return
	}
	log := func(what string, these, others []Peer) {
		for _, p := range these {
			if !slices.ContainsFunc(others, func(o Peer) bool { return same(p, o) }) {
				b.o.Log.DebugContext(ctx, what, slog.String("name", p.Name), slog.String("kind", string(p.Kind)), slog.String("url", p.URL))
			}
		}
	}
	log("peer is gone", before, peers)
	log("peer found", peers, before)
	select {
	case b.changes <- struct{}{}:
	default:
	}
}
