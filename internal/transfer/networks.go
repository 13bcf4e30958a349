package transfer

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/fetch"
	"ersatz/internal/metrics"
)

// The rules are those of docs/node.md, "When to use what".
const (
	// maxShare is the part of the time that an item would take without a network
	// which the network may take to begin: less than one in maxShare.
	maxShare = 5

	// quickStart is below what the start of a network is that goes before others
	// where nobody is known to have an item.
	quickStart = 500 * time.Millisecond

	// guessedPace is the time per block of a source of which nothing is known: 1 MiB
	// per second.
	guessedPace = time.Second / 32

	// lookAgain is how often networks are thought of while an item comes.
	lookAgain = time.Second
)

// startName is what a Book calls a network as one that takes a time to begin.
// Under its own name stands the latency of its calls.
func startName(n fetch.Network) string { return "start " + n.Name }

// Start returns how long a network takes to its first block of an item: as a Book
// has learnt, or else as its kind usually does.
func Start(book *fetch.Book, n fetch.Network) time.Duration {
	return cmp.Or(book.Prior(startName(n)).Latency, n.Start)
}

// networks sorts those that have not lied into the ones that are to be asked for
// a content at once and the others, which may be asked later. rate is how many
// blocks come in a second from who is known to have it, 0 if nobody is.
func (i *item) networks(rate float64) (now, later []fetch.Network) {
	left := math.Inf(1)
	if rate > 0 {
		left = i.blocks() / rate
	}
	var quick, fresh, failed []fetch.Network
	for _, n := range i.t.o.Networks {
		switch fails := i.t.book.Usable(n.Name) != nil; {
		case fails && !i.t.book.Entry(n.Name).Lied.IsZero():
		case fails:
			failed = append(failed, n)
		case rate == 0 && Start(i.t.book, n) < quickStart:
			quick = append(quick, n)
		case i.t.worth(n, left):
			fresh = append(fresh, n)
		default:
			later = append(later, n)
		}
	}
	switch {
	case len(quick) > 0:
		return quick, slices.Concat(fresh, failed)
	case rate == 0 && len(fresh) == 0:
		return failed, nil
	}
	return fresh, append(later, failed...)
}

// worth reports whether a network is to be asked for what takes so many seconds
// without it.
func (t *Transfers) worth(n fetch.Network, without float64) bool {
	return maxShare*Start(t.book, n).Seconds() < without
}

// blocks is about how many blocks of 32 KiB an item has at most.
func (i *item) blocks() float64 {
	return float64(i.build.Signed.NarSize) / float64(eris.Size32KiB)
}

// rateOf returns how many blocks come in a second from those sources that are
// known to have a content.
func rateOf(all []source) (rate float64) {
	for _, s := range all {
		if s.held == nil || s.held.now.Load() != nil {
			rate += 1 / cmp.Or(s.Prior.Pace, guessedPace).Seconds()
		}
	}
	return rate
}

// wanted is a content as networks have to know it.
func (f *blockFetch) wanted(filler *eris.Filler) block.Wanted {
	c := f.content
	w := block.Wanted{ReadCap: c.readCap, Magnet: c.magnet, Where: func(ref eris.Ref) (int, int64, bool) {
		if ref == c.readCap.Root {
			return int(c.readCap.Level), 0, true
		}
		return filler.Where(ref)
	}}
	for _, sv := range c.servers {
		if !sv.IsFolder() {
			w.Servers = append(w.Servers, sv.URL())
		}
	}
	return w
}

// search begins to look for the content in a network; false if that cannot have
// it. The session is to be closed.
func (f *blockFetch) search(n fetch.Network, w block.Wanted) (source, bool) {
	s, open, ok := n.Open(w)
	if !ok {
		return source{}, false
	}
	ses := &session{Session: open, network: n}
	s.Prior, s.Fetcher = f.t.book.Prior(n.Name), ses
	return source{Source: s, kind: metrics.SourceOf(n.Kind), session: ses}, true
}

// closeNetwork ends the search in a network. An item that has come does not wait
// for that; Transfers.Close does.
func (f *blockFetch) closeNetwork(s source) {
	f.t.work.Go(func() {
		if err := s.session.Close(); err != nil {
			f.log.Warn("closing a network", slog.String("source", s.Name), slog.Any("error", err))
		}
	})
}

// session is a content in a network that is asked for it.
type session struct {
	block.Session
	network fetch.Network
	since   atomic.Int64 // when it was first asked, in ns; 0 before
	start   atomic.Int64 // from then to the first block, likewise
}

// Fetch implements eris.Fetcher.
func (s *session) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	return s.FetchMany(ctx, size, refs, eris.One(got))
}

// FetchMany implements eris.ManyFetcher.
func (s *session) FetchMany(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	s.since.CompareAndSwap(0, time.Now().UnixNano())
	return eris.FetchMany(ctx, s.Session, size, refs, func(is []int, blocks [][]byte) (int, error) {
		n, err := got(is, blocks)
		if n > 0 && s.start.Load() == 0 {
			s.start.CompareAndSwap(0, max(time.Now().UnixNano()-s.since.Load(), 1))
		}
		return n, err
	})
}

// note has a Book learn of what the session has done. A network is not to blame
// for who lied there: it has failed. How long it takes to find nobody says nothing
// of how fast it is.
func (s *session) note(t *Transfers, did fetch.Stat) {
	if errors.Is(did.Err, eris.ErrCorrupt) {
		did.Err = errors.New(did.Err.Error())
	}
	if did.Blocks == 0 {
		did.Learnt = fetch.Learnt{}
	}
	t.book.Note(did)
	if first := time.Duration(s.start.Load()); first > 0 {
		before := cmp.Or(t.book.Prior(startName(s.network)).Latency, first)
		t.book.Note(fetch.Stat{Name: startName(s.network), Learnt: fetch.Learnt{Latency: (3*before + first) / 4}})
	}
}

// widen asks further networks while the content comes slowly, until ctx ends or
// all are asked.
func (m *mixing) widen(ctx context.Context) {
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	var blocks, seconds float64 // of late: what is older by a tick counts half
	seen, since := int64(0), time.Now()
	for m.waiting() {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			got := m.blocks()
			blocks, seconds = blocks/2+float64(got-seen), seconds/2+now.Sub(since).Seconds()
			seen, since = got, now
		}
		left := max(m.f.expected()-float64(m.f.nodes.Load()), 1)
		without := math.Inf(1)
		if blocks > 0 {
			without = left * seconds / blocks
		}
		m.open(func(n fetch.Network) bool {
			// One that failed of late is asked when nobody else gives anything.
			return m.f.t.worth(n, without) && (blocks == 0 || m.f.t.book.Usable(n.Name) == nil)
		})
	}
}

// expected is about how many blocks the content has.
func (f *blockFetch) expected() float64 {
	size := int64(f.build.Signed.NarSize)
	if f.content.signed && f.build.Content.Size >= 0 {
		size = f.build.Content.Size
	}
	return float64(size) / float64(f.content.readCap.Size)
}
