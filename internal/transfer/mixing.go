package transfer

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/fetch"
	"ersatz/internal/peers"
	"ersatz/internal/upstream"
)

// mixing is a mix of sources, being asked for a content. Peers and networks join
// while it is.
type mixing struct {
	f      *blockFetch
	mix    *fetch.Mix
	filler *eris.Filler
	wanted block.Wanted

	opening sync.Mutex
	later   []fetch.Network // that may be asked

	mu  sync.Mutex
	all []source // in the order of the Mix

	tried int // of all, whom the last Run could ask
}

// mixed fetches from the mix of sources.
func (f *blockFetch) mixed(ctx context.Context, filler *eris.Filler) (int64, error) {
	m := &mixing{
		f: f, filler: filler, wanted: f.wanted(filler), later: f.sources.later,
		mix: fetch.New(nil, fetch.Options{Stall: f.t.o.Stall, InFlight: inFlight, Log: f.log}),
	}
	defer m.close(ctx)
	for _, s := range f.sources.all {
		m.add(s)
	}
	for _, n := range f.sources.now {
		m.search(n)
	}
	for _, s := range f.sources.doubted {
		m.add(s)
	}
	watching, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { m.watch(watching) })
	work.Go(func() { m.widen(watching) })
	defer work.Wait()
	defer stop()
	for {
		length, err := filler.Run(ctx, m.mix)
		if err == nil || !m.last(ctx, err) {
			return length, err
		}
	}
}

// add has one more source be asked, if there is room.
func (m *mixing) add(s source) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.mix.Add(s.forMix(m.filler)) {
		return false
	}
	m.all = append(m.all, s)
	return true
}

// open asks those of the later networks that now are to be asked, if they can
// have the content.
func (m *mixing) open(now func(fetch.Network) bool) {
	m.opening.Lock()
	defer m.opening.Unlock()
	var rest []fetch.Network
	for _, n := range m.later {
		if now(n) {
			m.search(n)
		} else {
			rest = append(rest, n)
		}
	}
	m.later = rest
}

// search asks a network, if it can have the content.
func (m *mixing) search(n fetch.Network) {
	s, ok := m.f.search(n, m.wanted)
	if !ok {
		return
	}
	m.f.log.Debug("network is asked for an item", slog.String("source", s.Name))
	if !m.add(s) {
		m.f.closeNetwork(s)
	}
}

// waiting reports whether there are networks that may be asked later.
func (m *mixing) waiting() bool {
	m.opening.Lock()
	defer m.opening.Unlock()
	return len(m.later) > 0
}

// blocks returns how many have come.
func (m *mixing) blocks() (n int64) {
	for _, s := range m.mix.Stats() {
		n += s.Blocks
	}
	return n
}

// last asks all networks when those who were asked could not give the content,
// if that is the last thing to do. It reports whether somebody can be asked who was
// not.
func (m *mixing) last(ctx context.Context, err error) (again bool) {
	var local *localError
	if ctx.Err() != nil || m.filler.Err() != nil || errors.As(err, &local) {
		return false
	}
	m.open(func(fetch.Network) bool { return m.f.opensAll(m.f.sources) })
	sources := m.sources()
	for _, s := range sources[m.tried:] {
		again = again || s.session != nil && s.session.since.Load() == 0
	}
	m.tried = len(sources)
	return again
}

// close ends what is asked of networks, and takes what the sources have done. Who was
// cut off, or whose blocks this machine could not store, or whose tree is broken, is
// not at fault.
func (m *mixing) close(ctx context.Context) {
	f := m.f
	f.searched = len(m.later) == 0
	for k, s := range m.mix.Stats() {
		if s.Blocks > 0 || s.Err != nil {
			f.log.InfoContext(ctx, "source of blocks", slog.String("source", s.Name), slog.Int64("blocks", s.Blocks),
				slog.Int64("bytes", s.Bytes), slog.Any("error", s.Err))
		}
		f.t.o.Count.Got(m.all[k].kind, s.Bytes)
		if s.Err != nil && (errors.Is(s.Err, fetch.ErrStalled) || upstream.Waited(s.Err)) {
			f.inVain(s.Name)
		}
		var local *localError
		if !errors.Is(s.Err, eris.ErrCorrupt) && (ctx.Err() != nil || m.filler.Err() != nil) || errors.As(s.Err, &local) {
			s.Err = nil
		}
		if m.all[k].session == nil {
			f.t.book.Note(s)
			f.slow(s)
			continue
		}
		m.all[k].session.note(f.t, s)
		f.closeNetwork(m.all[k])
	}
}

// inVain notes that a server, if the source is one, was waited for in vain: what it
// has of the nar comes last.
func (f *blockFetch) inVain(name string) {
	for _, sv := range f.content.servers {
		if sv.String() == name {
			f.waited[sv] = true
		}
	}
}

// slow has a server whose nar did not begin in time, and that gave blocks, be given
// more time for its next nar: it is not dead.
func (f *blockFetch) slow(s fetch.Stat) {
	for _, sv := range f.content.servers {
		if sv.String() == s.Name && f.waited[sv] && s.Blocks > 0 && s.Err == nil {
			f.t.book.Note(fetch.Stat{Name: narName(sv), Blocks: 1, Learnt: fetch.Learnt{Latency: s.Learnt.Latency}})
		}
	}
}

// watch asks peers again and again what they have by now, until ctx ends, and
// takes in those that were not known before. Far sources give from places of
// chance while others fetch the same content.
func (m *mixing) watch(ctx context.Context) {
	f := m.f
	if f.t.o.Peers == nil {
		return
	}
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		m.mix.Spread(slices.ContainsFunc(m.sources(), source.grows))
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
			all := m.sources()
			k := slices.IndexFunc(all, func(s source) bool { return s.Name == c.Peer.Name() })
			switch {
			case k < 0:
				m.join(c)
			case all[k].held != nil && all[k].held.grow(&c.Held):
				grown = true
			}
		}
		if grown {
			m.mix.Changed()
		}
	}
}

// sources returns who is asked.
func (m *mixing) sources() []source {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all[:len(m.all):len(m.all)]
}

// join adds a peer that was found while the content was on its way.
func (m *mixing) join(c peers.Claim) {
	f := m.f
	if f.t.book.Usable(c.Peer.Name()) != nil {
		return
	}
	s := f.peerSource(c.Peer)
	s.held.now.Store(&c.Held)
	if m.add(s) {
		f.content.claims = append(f.content.claims, c)
	}
}
