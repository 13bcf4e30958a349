package ipfs

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"ersatz/eris"
)

const (
	// maxReach is how many bytes of blocks a CAR may be behind one that is
	// wanted, which is asked for by itself if it is more; and how many are kept
	// of those that came before somebody wanted them.
	maxReach = 16 << 20

	// maxOdd is how many blocks in a row a CAR may have that nobody expects,
	// such as those that came before.
	maxOdd = 256

	// carAhead is how many blocks are read before they are looked at.
	carAhead = 32
)

// carSession is a content whose manifest is known: the gateway sends its blocks
// in the order of the tree, in one CAR, and who reads the content wants them in
// that order. What does not come soon that way is asked for by itself.
type carSession struct {
	g      *Gateway
	top    cid
	root   eris.Ref // who has it is known to the network, so it is asked for first
	size   int      // of a block, in bytes
	reach  int      // maxReach in blocks
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	turn   chan struct{} // who holds its one token reads the CAR, and may touch the rest
	begin  sync.Once
	blocks chan section // what comes; closed at its end
	over   bool         // nothing more is to be expected of it

	nodes  map[cid]bool     // nodes of the manifest that will come
	coming []eris.Ref       // blocks that will come next
	ahead  map[eris.Ref]int // their places among all
	at     int              // place of the first
	odd    int              // blocks that nobody expected, since the last that was
	kept   map[eris.Ref][]byte
	order  []eris.Ref // of those, as they came
}

// section is a block of a CAR.
type section struct {
	id   cid
	data []byte
}

func newCARSession(g *Gateway, top cid, c eris.ReadCap) *carSession {
	size := max(int(c.Size), int(eris.Size1KiB))
	s := &carSession{
		g: g, top: top, root: c.Root, size: size, reach: maxReach / size, turn: make(chan struct{}, 1), blocks: make(chan section, carAhead),
		nodes: map[cid]bool{top: true}, ahead: map[eris.Ref]int{}, kept: map[eris.Ref][]byte{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Close implements block.Session.
func (s *carSession) Close() error {
	s.cancel()
	s.work.Wait()
	return nil
}

// Fetch implements eris.Fetcher.
func (s *carSession) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(i int, block []byte) error) error {
	var rest []int
	for i, ref := range refs {
		b, err := s.take(ctx, ref)
		if err != nil {
			return err
		}
		if len(b) != int(size) {
			rest = append(rest, i)
			continue
		}
		if err := got(i, b); err != nil {
			return fmt.Errorf("ipfs: %s: %w", s.g, err)
		}
	}
	alone := make([]eris.Ref, len(rest))
	for k, i := range rest {
		alone[k] = refs[i]
	}
	return s.g.Fetch(ctx, size, alone, func(k int, b []byte) error { return got(rest[k], b) })
}

// take returns a block that the CAR has given, or gives soon; else nil. It is
// not verified.
func (s *carSession) take(ctx context.Context, ref eris.Ref) ([]byte, error) {
	if ref == s.root {
		return nil, nil
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.begin.Do(func() { s.work.Go(s.read) })
	for {
		if b, ok := s.kept[ref]; ok {
			return b, nil
		}
		place, ok := s.ahead[ref]
		if s.over || !ok && len(s.ahead) > 0 || ok && place-s.at > s.reach {
			return nil, nil
		}
		if err := s.step(ctx); err != nil {
			return nil, err
		}
	}
}

// step looks at what the CAR gives next, and gives it up if that takes too long:
// half of the time for a block, so that some is left to ask for it by itself.
func (s *carSession) step(ctx context.Context) error {
	timer := time.NewTimer(s.g.BlockTimeout / 2)
	defer timer.Stop()
	select {
	case b, ok := <-s.blocks:
		if s.over = !ok; ok {
			s.look(b)
		}
	case <-timer.C:
		s.giveUp()
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// pass passes over a block.
func (s *carSession) pass() {
	if s.odd++; s.odd > maxOdd {
		s.giveUp()
	}
}

func (s *carSession) giveUp() {
	s.over = true
	s.cancel()
}

// look takes a block that is expected, and passes over others.
func (s *carSession) look(b section) {
	if b.id[1] == codecRaw {
		place, ok := s.ahead[b.id.digest()]
		if len(s.coming) > 0 && s.coming[0] == b.id.digest() {
			place, ok = s.at, true // perhaps once more
		}
		if !ok {
			s.pass()
			return
		}
		if len(b.data) != s.size {
			s.giveUp()
			return
		}
		s.odd = 0
		// Those before it are left out, if a gateway sends nothing twice.
		n := place - s.at + 1
		for _, ref := range s.coming[:n] {
			delete(s.ahead, ref)
		}
		s.coming, s.at = s.coming[n:], place+1
		s.keep(b.id.digest(), b.data)
		return
	}
	if !s.nodes[b.id] || nodeCID(b.data) != b.id {
		s.pass()
		return
	}
	delete(s.nodes, b.id)
	links, err := parseNode(b.data)
	if err != nil || len(s.coming)+len(s.nodes)+len(links) > 4*maxLinks {
		s.giveUp()
		return
	}
	for _, link := range links {
		if link[1] == codecDagCBOR {
			s.nodes[link] = true
			continue
		}
		ref := eris.Ref(link.digest())
		if _, twice := s.ahead[ref]; !twice {
			s.ahead[ref] = s.at + len(s.coming)
		}
		s.coming = append(s.coming, ref)
	}
}

func (s *carSession) keep(ref eris.Ref, b []byte) {
	if s.kept[ref] != nil {
		return
	}
	s.kept[ref] = b
	if s.order = append(s.order, ref); len(s.order) > s.reach {
		delete(s.kept, s.order[0])
		s.order = s.order[1:]
	}
}

// read reads the CAR until it ends, is malformed, or the session is closed.
// That it ends does not matter: the rest is asked for in another way.
func (s *carSession) read() {
	defer close(s.blocks)
	resp, err := s.g.ask(s.ctx, s.top, "car&dag-scope=all&car-order=dfs&car-dups=y", typeCAR+"; version=1; order=dfs; dups=y")
	if err != nil || resp == nil {
		return
	}
	defer resp.Body.Close()
	r, err := newCARReader(resp.Body)
	for err == nil {
		var b section
		if b.id, b.data, err = r.next(); err != nil {
			return
		}
		b.data = bytes.Clone(b.data)
		select {
		case s.blocks <- b:
		case <-s.ctx.Done():
			return
		}
	}
}
