package bitswap

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"ersatz/eris"
	"ersatz/internal/block"
)

const (
	// maxPeers bounds the peers that a session asks, and those that it connects to
	// at once, named ones aside. maxFound bounds those that it hears of: anybody can
	// say that he has a content, and be nowhere.
	maxPeers = 16
	maxFound = 128

	// searchAgain is how long a search in the DHT is not repeated.
	searchAgain = time.Minute
)

// session is a content that is asked for. Its peers are those that are named
// and those that say in the DHT that they have its root.
type session struct {
	h     *Host
	root  eris.Ref
	again chan struct{} // has run look for peers again
	end   context.CancelFunc
	ended <-chan struct{} // closed once run has returned

	mu      sync.Mutex
	peers   map[peer.ID]*member
	busy    bool          // run looks for peers
	since   time.Time     // when that began
	changed chan struct{} // closed and made anew when any of these changes
}

// member is a peer of a session.
type member struct {
	info  peer.AddrInfo
	found bool  // it was not named
	link  *link // nil: it is not connected to
	err   error // why it is not asked, or not any more
}

var _ block.Session = (*session)(nil)

// Open begins to look for peers that have a content; nil if there can be none:
// no peer is named, and the Host takes no part in the DHT.
func (h *Host) Open(w block.Wanted) block.Session {
	if len(h.named) == 0 && h.dht == nil {
		return nil
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan struct{})
	s := &session{
		h: h, root: w.ReadCap.Root, again: make(chan struct{}, 1), end: end, ended: ended,
		peers: map[peer.ID]*member{}, busy: true, since: time.Now(), changed: make(chan struct{}),
	}
	ok := h.begin(func(host context.Context) {
		defer close(ended)
		defer context.AfterFunc(host, end)()
		s.run(ctx)
	})
	if !ok {
		s.busy = false
		end()
		close(ended)
	}
	return s
}

// Close ends the search.
func (s *session) Close() error {
	s.end()
	<-s.ended
	return nil
}

// run looks for peers, and again when Fetch finds none, until ctx ends.
func (s *session) run(ctx context.Context) {
	defer s.leave()
	var searched time.Time
	for {
		var work sync.WaitGroup
		for _, info := range s.absent() {
			work.Go(func() { s.join(ctx, info) })
		}
		if s.h.dht != nil && time.Since(searched) >= searchAgain {
			searched = time.Now()
			s.search(ctx, &work)
		}
		work.Wait()
		s.update(func() { s.busy = false })
		select {
		case <-s.again:
		case <-ctx.Done():
			return
		}
	}
}

// absent returns the peers to connect to: those that are named, and those that
// failed, but for liars.
func (s *session) absent() []peer.AddrInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, info := range s.h.named {
		if s.peers[info.ID] == nil {
			s.peers[info.ID] = &member{info: info}
		}
	}
	var list []peer.AddrInfo
	for _, m := range s.peers {
		if m.link == nil && !errors.Is(m.err, eris.ErrCorrupt) {
			list = append(list, m.info)
		}
	}
	return list
}

// search asks the DHT who has the root, and joins them, until enough are asked.
func (s *session) search(ctx context.Context, work *sync.WaitGroup) {
	slots := make(chan struct{}, maxPeers)
	for info := range s.h.find(ctx, s.root) {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		isNew, enough := s.meet(info)
		if enough {
			return
		}
		if !isNew {
			<-slots
			continue
		}
		work.Go(func() {
			defer func() { <-slots }()
			s.join(ctx, info)
		})
	}
}

// meet notes a peer that has been found. It reports whether that is a new one, and
// whether there are enough without it.
func (s *session) meet(info peer.AddrInfo) (isNew, enough bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := 0
	for _, m := range s.peers {
		if m.link != nil {
			asked++
		}
	}
	if asked >= maxPeers+len(s.h.named) || len(s.peers) >= maxFound+len(s.h.named) {
		return false, true
	}
	if s.peers[info.ID] != nil {
		return false, false
	}
	s.peers[info.ID] = &member{info: info, found: true}
	return true, false
}

// join connects to a peer. One that was found, and is not there, is forgotten:
// others may come in its place.
func (s *session) join(ctx context.Context, info peer.AddrInfo) {
	l, err := s.h.connect(ctx, info)
	s.update(func() {
		m := s.peers[info.ID]
		if m.link, m.err = l, err; err != nil && m.found {
			delete(s.peers, info.ID)
		}
	})
}

// leave gives up all peers.
func (s *session) leave() {
	s.update(func() {
		s.busy = false
		for _, m := range s.peers {
			s.lose(m, errClosed)
		}
	})
}

// lose has a peer not asked any more. The caller has s.mu.
func (s *session) lose(m *member, err error) {
	if m.link != nil {
		s.h.release(m.link)
		m.link, m.err = nil, err
	}
}

// failed notes that a link of the session is of no use.
func (s *session) failed(l *link, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.peers[l.id]; m.link == l {
		s.lose(m, err)
		s.wake()
	}
}

// update changes the session, and wakes all who wait for that.
func (s *session) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.wake()
}

// wake wakes all who wait for a change. The caller has s.mu.
func (s *session) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// state is what a Fetch sees of a session.
type state struct {
	links   []*link
	busy    bool            // there may soon be more
	since   time.Time       // when that began
	changed <-chan struct{} // closed when this is out of date
}

// look returns what there is now.
func (s *session) look() state {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := state{busy: s.busy, since: s.since, changed: s.changed}
	for _, m := range s.peers {
		if m.link != nil {
			st.links = append(st.links, m.link)
		}
	}
	return st
}

// revive has peers looked for if there are none.
func (s *session) revive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended:
		return
	default:
	}
	if s.busy {
		return
	}
	for _, m := range s.peers {
		if m.link != nil {
			return
		}
	}
	s.busy, s.since = true, time.Now()
	s.again <- struct{}{} // there is room: run has taken what made it busy before
}

// reasons returns why there is no peer, if that says something of the network: a
// Host that takes part in the DHT merely finds nobody who has this content.
func (s *session) reasons() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended:
		return errClosed
	default:
	}
	if s.h.dht != nil {
		return nil
	}
	var errs []error
	for _, m := range s.peers {
		if m.err == nil {
			m.err = fmt.Errorf("peer %s: no connection in time", m.info.ID)
		}
		errs = append(errs, m.err)
	}
	return fmt.Errorf("bitswap: no peer is left: %w", errors.Join(errs...))
}
