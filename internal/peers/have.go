package peers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ersatz/internal/fetch"
	"ersatz/internal/transport/peer"
)

const (
	// A peer has patience to answer, a near one that is known to be fast much
	// less: what others have is waited for.
	patience      = 2 * time.Second
	leastPatience = time.Second

	// Answers are kept for a while, those of peers that may soon have more for
	// less.
	freshWhole = 5 * time.Second
	freshPart  = 100 * time.Millisecond

	maxKept    = 16 << 10  // answers of a peer
	maxBitmaps = 256 << 10 // bytes of the bitmaps in them: 64 GiB of content
)

// Claim is what a peer says that it has of a nar. Nothing of it is verified.
type Claim struct {
	Peer *Peer
	Held peer.Held
}

// Have asks all Nodes at once for what they have of nars, by their hashes, and
// returns the claims by hash, those of the best peers first. Who does not answer
// within 2 seconds, or sooner where that is unusual, has nothing. Answers are
// kept for some seconds, and who asks at the same time shares a request.
func (s *Set) Have(ctx context.Context, hashes [][32]byte) [][]Claim {
	claims := make([][]Claim, len(hashes))
	if len(hashes) == 0 {
		return claims
	}
	nodes := s.Nodes()
	held := make([][]*peer.Held, len(nodes))
	var asked sync.WaitGroup
	for i, p := range nodes {
		asked.Go(func() { held[i] = s.have(ctx, p, hashes) })
	}
	asked.Wait()
	for i, p := range nodes {
		for k, h := range held[i] {
			if h != nil {
				claims[k] = append(claims[k], Claim{p, *h})
			}
		}
	}
	return claims
}

// have returns what one peer says, or said a moment ago, of each nar.
func (s *Set) have(ctx context.Context, p *Peer, hashes [][32]byte) []*peer.Held {
	wanted, missing := p.expect(hashes, s.o.Now())
	if len(missing) > 0 && !s.begin(func() { s.ask(ctx, p, missing) }) {
		p.settle(missing, nil, time.Time{})
	}
	held := make([]*peer.Held, len(hashes))
	for k, a := range wanted {
		select {
		case <-a.done:
			held[k] = a.held
		case <-ctx.Done():
			return held
		}
	}
	return held
}

// begin runs f, which Run waits for, unless that has ended.
func (s *Set) begin(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.work.Go(f)
	}
	return !s.ended
}

// ask asks a peer and settles what it was asked. Others wait for the answers
// too, whatever becomes of who asked first.
func (s *Set) ask(ctx context.Context, p *Peer, hashes [][32]byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.patience(p))
	defer cancel()
	start := s.o.Now()
	for first := true; len(hashes) > 0; first = false {
		batch := hashes[:min(len(hashes), peer.MaxHashes)]
		held, err := p.client.Have(ctx, batch)
		now := s.o.Now()
		if err != nil {
			if first {
				s.failed(ctx, p, err)
			}
			p.settle(hashes, nil, now)
			return
		}
		if took := now.Sub(start); first && took > 0 && s.book.Prior(p.Name()).Latency == 0 {
			s.book.Note(fetch.Stat{Name: p.Name(), Learnt: fetch.Learnt{Latency: took}})
		}
		p.answered(now)
		p.settle(batch, held, now)
		hashes = hashes[len(batch):]
	}
}

// failed has a peer that did not answer left alone.
func (s *Set) failed(ctx context.Context, p *Peer, err error) {
	s.o.Log.DebugContext(ctx, "peer does not say what it has", slog.String("peer", p.Name()), slog.Any("error", err))
	switch {
	case errors.Is(err, peer.ErrNoPeer):
		p.mute(s.o.Now())
	case ctx.Err() != nil:
		p.rest(s.o.Now())
	default:
		s.book.Note(fetch.Stat{Name: p.Name(), Err: fmt.Errorf("asked what it has: %w", err)})
	}
}

// patience is how long a peer may take to answer.
func (s *Set) patience(p *Peer) time.Duration {
	usual := s.book.Prior(p.Name()).Latency
	if !p.Near() || usual == 0 {
		return patience
	}
	return max(leastPatience, min(10*usual, patience))
}

// answer is what a peer says of a nar, or is being asked.
type answer struct {
	done chan struct{} // closed when it is there
	held *peer.Held    // nil: nothing
	end  time.Time     // until when it is kept
}

// settled reports whether it is there.
func (a *answer) settled() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// answers are those that a peer has given of late, by NarHash.
type answers map[[32]byte]*answer

// expect returns the answer about each nar, and those that the peer has to be
// asked for.
func (p *Peer) expect(hashes [][32]byte, now time.Time) (wanted []*answer, missing [][32]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for h, a := range p.answers {
		if a.settled() && !now.Before(a.end) {
			delete(p.answers, h)
		}
	}
	for _, h := range hashes {
		a := p.answers[h]
		if a == nil {
			a = &answer{done: make(chan struct{})}
			p.answers[h] = a
			missing = append(missing, h)
		}
		wanted = append(wanted, a)
	}
	return wanted, missing
}

// settle takes what the peer said of nars, nil if it did not answer.
func (p *Peer) settle(hashes [][32]byte, held []*peer.Held, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept, bitmaps := 0, 0
	for _, a := range p.answers {
		if a.settled() {
			kept++
			if a.held != nil {
				bitmaps += len(a.held.Leaves)
			}
		}
	}
	for i, h := range hashes {
		a := p.answers[h]
		if held != nil {
			a.held, a.end = held[i], now.Add(freshPart)
			if a.held != nil && !a.held.Part {
				a.end = now.Add(freshWhole)
			}
			if a.held != nil && a.held.Part {
				if bitmaps += len(a.held.Leaves); bitmaps > maxBitmaps {
					bitmaps -= len(a.held.Leaves)
					a.held.Leaves = nil // it may have any
				}
			}
		}
		close(a.done)
		if kept++; held == nil || kept > maxKept {
			delete(p.answers, h) // who waits for it has it
		}
	}
}
