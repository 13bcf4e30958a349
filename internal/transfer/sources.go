package transfer

import (
	"bytes"
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
)

// holding is what a peer has of a content; nil: nothing.
type holding struct {
	now atomic.Pointer[peer.Held]
}

// grow takes what the peer has by now, and reports whether that is another
// thing than before.
func (h *holding) grow(now *peer.Held) bool {
	before := h.now.Swap(now)
	return before == nil || before.Part != now.Part || !bytes.Equal(before.Leaves, now.Leaves)
}

// source is one of the sources of a content.
type source struct {
	fetch.Source
	kind    metrics.Source
	held    *holding // of a peer
	session *session // of a network
}

// sources are those of one content.
type sources struct {
	all     []source        // peers and servers that are asked from the beginning
	doubted []source        // servers and peers that failed, behind the networks
	now     []fetch.Network // that are asked from the beginning
	later   []fetch.Network // that may be
	alone   bool            // nobody but networks may have the content, and who failed
}

// any reports whether there is anybody to ask.
func (s sources) any() bool { return len(s.all)+len(s.doubted)+len(s.now) > 0 }

// sources returns who has, or may soon have, blocks of a content: peers, of
// which those that fetch it too say later what they have; servers that have
// signed its URN; networks. One that lied is left out, one that failed a short
// time ago too unless nobody else has anything.
func (i *item) sources(c content) sources {
	var good, resting []source
	holders := 0 // that are good and have something
	named := map[string]bool{}
	add := func(s source, has, usable bool) {
		if named[s.Name] {
			return // a peer that gave the narinfo too
		}
		named[s.Name] = true
		if s.Near && s.kind == metrics.Far {
			s.kind = metrics.Near
		}
		s.Prior = i.t.book.Prior(s.Name)
		switch {
		case usable && i.t.book.Usable(s.Name) == nil:
			good = append(good, s)
			if has {
				holders++
			}
		case has && (i.t.book.Usable(s.Name) == nil || i.t.book.Entry(s.Name).Lied.IsZero()):
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
			add(s, k >= 0, true)
		}
	}
	for _, sv := range c.servers {
		if s, ok := i.t.client.Blocks(sv); ok {
			add(source{Source: s, kind: metrics.Far}, true, !i.waited[sv] && i.t.book.Usable(narName(sv)) == nil)
		}
	}
	s := sources{all: good, alone: holders == 0}
	if s.alone {
		s.doubted = resting
		s.now, s.later = i.networks(0)
		if len(s.doubted)+len(s.now) == 0 {
			return sources{} // peers without anything are no beginning
		}
	} else {
		s.now, s.later = i.networks(rateOf(good))
	}
	return s
}

// peerSource returns a peer as a source, of which nothing is known to be there.
func (i *item) peerSource(p *peers.Peer) source {
	s := source{Source: i.t.o.Peers.Source(p), kind: metrics.Far, held: &holding{}}
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

// grows reports whether a source is a peer that has a part.
func (s source) grows() bool {
	if s.held == nil {
		return false
	}
	h := s.held.now.Load()
	return h != nil && h.Part
}
