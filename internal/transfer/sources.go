package transfer

import (
	"bytes"
	"context"
	"slices"
	"sync/atomic"
	"time"

	"ersatz/eris"
	"ersatz/internal/fetch"
	"ersatz/internal/metrics"
	"ersatz/internal/peers"
	"ersatz/internal/transport/peer"
)

const (
	// Peers are asked what they have by now of an item that is on its way after
	// firstLook, and then after twice as long each time, up to lastLook.
	firstLook = 100 * time.Millisecond
	lastLook  = time.Second

	// maxShare is the part of the time that an item would take without a source
	// which the source may take to begin: less than one in maxShare.
	maxShare = 5

	// startOfIPFS is how long an IPFS daemon takes to find somebody, while
	// nothing has been learnt of that.
	startOfIPFS = time.Second
)

// holding is what a peer has of a content; nil: nothing.
type holding struct {
	peer *peers.Peer
	now  atomic.Pointer[peer.Held]
}

// grow takes what the peer has by now, and reports whether that is another
// thing than before.
func (h *holding) grow(now *peer.Held) bool {
	before := h.now.Swap(now)
	return before == nil || before.Part != now.Part || !bytes.Equal(before.Leaves, now.Leaves)
}

// sources are those of one content.
type sources struct {
	all []source
}

// sources returns who has, or may soon have, blocks of a content: peers, of
// which those that fetch it too say later what they have; servers that have
// signed its URN; the IPFS daemon. One that lied is left out, one that failed a
// short time ago too unless nobody else has anything.
func (i *item) sources(c content) sources {
	var good, resting []source
	holders := 0 // that are good and have something
	named := map[string]bool{}
	add := func(s source, has bool) {
		if named[s.Name] {
			return // a peer that gave the narinfo too
		}
		named[s.Name] = true
		if s.Near && s.kind == metrics.Far {
			s.kind = metrics.Near
		}
		s.Prior = i.t.book.Prior(s.Name)
		switch {
		case i.t.book.Usable(s.Name) == nil:
			good = append(good, s)
			if has {
				holders++
			}
		case has && i.t.book.Entry(s.Name).Lied.IsZero():
			resting = append(resting, s)
		}
	}
	if i.t.o.Peers != nil {
		for _, p := range i.t.o.Peers.Nodes() {
			s := i.peerSource(p)
			k := slices.IndexFunc(c.claims, func(claim peers.Claim) bool { return claim.Peer == p })
			if k >= 0 {
				s.held.now.Store(&c.claims[k].Held)
			}
			add(s, k >= 0)
		}
	}
	for _, sv := range c.servers {
		if s, ok := i.t.client.Blocks(sv); ok {
			add(source{Source: s, kind: metrics.Far}, true)
		}
	}
	alone := holders == 0
	if s := i.t.o.IPFS; s != nil && (alone || i.worth(good)) {
		add(source{Source: *s, kind: metrics.IPFS}, true)
	}
	if alone {
		good = append(good, resting...)
		if holders == 0 && len(resting) == 0 {
			return sources{} // peers without anything are no beginning
		}
	}
	return sources{good}
}

// worth reports whether the IPFS daemon is asked beside others: its start must
// cost less than a fifth of the time that the item takes without it, as far as
// that is known.
func (i *item) worth(others []source) bool {
	size := int64(i.build.Signed.NarSize)
	if size <= ipfsFrom {
		return false
	}
	var rate float64 // blocks per second of all others
	for _, s := range others {
		if s.held != nil && s.held.now.Load() == nil {
			continue
		}
		if s.Prior.Pace <= 0 {
			return true // nothing is known
		}
		rate += 1 / s.Prior.Pace.Seconds()
	}
	if rate == 0 {
		return true
	}
	start := startOfIPFS
	if l := i.t.book.Prior(i.t.o.IPFS.Name).Latency; l > 0 {
		start = l
	}
	without := float64(size/int64(eris.Size32KiB)) / rate
	return start.Seconds() < without/maxShare
}

// peerSource returns a peer as a source, of which nothing is known to be there.
func (i *item) peerSource(p *peers.Peer) source {
	s := source{Source: i.t.o.Peers.Source(p), kind: metrics.Far, held: &holding{peer: p}}
	if s.Near {
		s.kind = metrics.Near
	}
	return s
}

// forMix returns the source for a Mix: filler says which leaf of a part is asked
// for.
func (s source) forMix(filler *eris.Filler) fetch.Source {
	if h := s.held; h != nil && !whole(h.now.Load()) {
		s.Has = func(ref eris.Ref) bool {
			held := h.now.Load()
			if held == nil {
				return false
			}
			level, index, ok := filler.Where(ref)
			return !ok || level > 0 || held.Has(index)
		}
	}
	return s.Source
}

func whole(h *peer.Held) bool { return h != nil && !h.Part }

// watch asks peers again and again what they have by now, until ctx ends, and
// takes in those that were not known before. Far sources give from places of
// chance while others fetch the same content.
func (f *blockFetch) watch(ctx context.Context, mix *fetch.Mix, filler *eris.Filler) {
	if f.t.o.Peers == nil {
		return
	}
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		mix.Spread(slices.ContainsFunc(f.sources.all, source.grows))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		grown := false
		for _, c := range f.claims(ctx) {
			if c.Held.ReadCap != f.content.readCap {
				continue
			}
			k := slices.IndexFunc(f.sources.all, func(s source) bool { return s.Name == c.Peer.Name() })
			switch {
			case k < 0:
				f.join(mix, filler, c)
			case f.sources.all[k].held != nil && f.sources.all[k].held.grow(&c.Held):
				grown = true
			}
		}
		if grown {
			mix.Changed()
		}
	}
}

// join adds a peer that was found while the content was on its way.
func (f *blockFetch) join(mix *fetch.Mix, filler *eris.Filler, c peers.Claim) {
	if f.t.book.Usable(c.Peer.Name()) != nil {
		return
	}
	s := f.peerSource(c.Peer)
	s.held.now.Store(&c.Held)
	if mix.Add(s.forMix(filler)) {
		f.sources.all, f.content.claims = append(f.sources.all, s), append(f.content.claims, c)
	}
}

// grows reports whether a source is a peer that has a part.
func (s source) grows() bool {
	if s.held == nil {
		return false
	}
	h := s.held.now.Load()
	return h != nil && h.Part
}
