package ndn

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
)

const (
	// maxQueue is how many Interests wait for a block to be read, and maxAbsent
	// how many answers that there is none.
	maxQueue  = 256
	maxAbsent = 4096

	// maxRecent is how many blocks are remembered, and recentTime how long: what
	// is not shared any more is not to be given.
	maxRecent  = 64
	recentTime = 10 * time.Second

	// A connection is tried after pauses between these.
	leastPause = time.Second
	mostPause  = 30 * time.Second

	// maxAnswer is how long a forwarder may take to register, of which there are
	// so many tries.
	maxAnswer     = 2 * time.Second
	registerTries = 3
)

// Serve registers the prefix at the forwarder and answers for what blocks has,
// and nothing else, until ctx ends; then it returns nil. What blocks returns is
// verified, and is not changed while it is sent. When the connection to the
// forwarder is lost, or cannot be made, it tries again. Another error is one of
// the options, or says that the client serves already.
//
// The connection is the one by which the client asks: a forwarder gives no
// Interest back to where it came from, so that a client which serves asks
// others, and never itself.
func (c *Client) Serve(ctx context.Context, blocks block.Getter, o ServerOptions) error {
	if err := o.setDefaults(); err != nil {
		return err
	}
	if !c.serves.CompareAndSwap(false, true) {
		return errors.New("ndn: the client serves already")
	}
	defer c.serves.Store(false)
	for pause := leastPause; ; pause = min(2*pause, mostPause) {
		registered, err := c.serve(ctx, blocks, o)
		if ctx.Err() != nil {
			return nil
		}
		if registered {
			pause = leastPause
		}
		o.Log.WarnContext(ctx, "nothing is served by the NDN forwarder", slog.Any("error", err), slog.Duration("again_in", pause))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// request is an Interest in a segment.
type request struct {
	place
	token []byte
	until time.Time // the Interest lives
}

// producer is what is served over one connection.
type producer struct {
	face     *face
	ns       namespace
	local    bool // the forwarder is on this machine
	blocks   block.Getter
	opts     ServerOptions
	requests chan request
	absent   chan late
	answers  chan answer // to the command
	recent   recent
}

// answer is Data that is no block.
type answer struct{ name, content []byte }

// late is a packet that is to be sent at a time.
type late struct {
	at     time.Time
	packet []byte
}

// serve serves until the connection or ctx ends, and reports whether the prefix
// was registered. If it was, the connection ends here, which takes that back.
func (c *Client) serve(ctx context.Context, blocks block.Getter, o ServerOptions) (registered bool, err error) {
	l, _, err := c.connect(ctx)
	if err != nil {
		return false, err
	}
	s := &producer{
		face: l.face, ns: c.ns, local: c.at.local, blocks: blocks, opts: o,
		requests: make(chan request, maxQueue), absent: make(chan late, maxAbsent), answers: make(chan answer, 1),
		recent: recent{blocks: map[eris.Ref]*reading{}},
	}
	l.producer.Store(s)
	defer l.producer.Store(nil)
	ctx, cancel := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer func() {
		if registered {
			l.face.close() // so that nobody waits for what a forwarder does not read
		}
	}()
	defer cancel(nil)
	work.Go(func() {
		select {
		case <-l.lost:
			cancel(l.err)
		case <-ctx.Done():
		}
	})
	work.Go(func() { s.sendLate(ctx) })
	for range o.Requests {
		work.Go(func() { s.work(ctx) })
	}
	if err := s.register(ctx); err != nil {
		return false, err
	}
	o.Log.InfoContext(ctx, "NDN prefix is registered", slog.String("prefix", c.opts.Prefix))
	o.Registered()
	<-ctx.Done()
	return true, context.Cause(ctx)
}

// register tells the forwarder that Interests in blocks are to come here.
func (s *producer) register(ctx context.Context) error {
	for range registerTries {
		command, name := appendRegister(nil, s.local, s.ns, nonceOf(rand.Uint64()), time.Now())
		if err := s.face.send(command); err != nil {
			return err
		}
		timer := time.NewTimer(maxAnswer)
		for waiting := true; waiting; {
			select {
			case a := <-s.answers:
				if bytes.Equal(a.name, name) {
					timer.Stop()
					return parseResponse(a.content)
				}
			case <-timer.C:
				waiting = false
			case <-ctx.Done():
				timer.Stop()
				return context.Cause(ctx)
			}
		}
	}
	return errors.New("forwarder does not answer")
}

// told takes Data that may answer a command.
func (s *producer) told(p packet) {
	select {
	case s.answers <- answer{slices.Clone(p.name), slices.Clone(p.content)}:
	default:
	}
}

// asked takes an Interest. If there is no room for it, it is dropped: who sent
// it does so again.
func (s *producer) asked(p packet, at place) {
	select {
	case s.requests <- request{at, slices.Clone(p.token), time.Now().Add(p.lifetime)}:
	default:
	}
}

// work answers requests until ctx ends.
func (s *producer) work(ctx context.Context) {
	for {
		select {
		case r := <-s.requests:
			if time.Now().Before(r.until) {
				s.answer(ctx, r)
			}
		case <-ctx.Done():
			return
		}
	}
}

// answer answers a request. An error of the blocks is answered as if there were
// none: nobody can do anything else about it.
func (s *producer) answer(ctx context.Context, r request) {
	b, err := s.recent.get(ctx, r.ref, s.blocks)
	if ctx.Err() != nil {
		return
	}
	if err != nil && !errors.Is(err, eris.ErrNotFound) {
		s.opts.Log.WarnContext(ctx, "block cannot be read", slog.String("ref", r.ref.String()), slog.Any("error", err))
	}
	name := s.ns.appendName(nil, r.place)
	n := segments(len(b))
	if err != nil || int(r.seg) >= n {
		// If there is no room, silence says the same.
		select {
		case s.absent <- late{time.Now().Add(s.opts.Absent), appendAbsent(nil, name, r.token)}:
		default:
		}
		return
	}
	part := len(b) / n
	segment := b[int(r.seg)*part:][:part]
	if s.opts.Limit != nil {
		if err := s.opts.Limit.WaitN(ctx, len(segment)); err != nil {
			if ctx.Err() == nil {
				s.opts.Log.WarnContext(ctx, "upload limit forbids a segment", slog.Int("bytes", len(segment)), slog.Any("error", err))
			}
			return
		}
	}
	// An error ends the connection, which its reader says.
	_ = s.face.send(appendBlock(nil, name, r.token, segment, n))
}

// sendLate sends answers when it is time. All wait equally long.
func (s *producer) sendLate(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case l := <-s.absent:
			timer.Reset(time.Until(l.at))
			select {
			case <-timer.C:
				_ = s.face.send(l.packet) // as above
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// recent remembers blocks, so that one is read once for its segments.
type recent struct {
	mu     sync.Mutex
	blocks map[eris.Ref]*reading
	order  []eris.Ref // of those that have been read, as they were
}

// forget forgets what is too old, or too much. It is called under mu.
func (m *recent) forget() {
	for len(m.order) > maxRecent || len(m.order) > 0 && time.Since(m.blocks[m.order[0]].at) >= recentTime {
		delete(m.blocks, m.order[0])
		m.order = m.order[1:]
	}
}

// reading is a block that is read, or was.
type reading struct {
	done  chan struct{} // closed when the rest is set
	block []byte
	err   error
	at    time.Time // when it had been read
}

// get returns a block of blocks. What failed is not remembered.
func (m *recent) get(ctx context.Context, ref eris.Ref, blocks block.Getter) ([]byte, error) {
	m.mu.Lock()
	m.forget()
	r, ok := m.blocks[ref]
	if !ok {
		r = &reading{done: make(chan struct{})}
		m.blocks[ref] = r
	}
	m.mu.Unlock()
	if ok {
		select {
		case <-r.done:
			return r.block, r.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	r.block, r.err = blocks.Get(ctx, ref)
	r.at = time.Now()
	close(r.done)
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.err != nil {
		delete(m.blocks, ref)
		return nil, r.err
	}
	m.order = append(m.order, ref)
	m.forget()
	return r.block, nil
}
