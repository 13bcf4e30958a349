package ndn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

	// maxRecent is how many blocks are remembered.
	maxRecent = 64

	// Connections are tried after pauses between these.
	leastPause = time.Second
	mostPause  = 30 * time.Second

	// maxAnswer is how long a forwarder may take to register, of which there are
	// so many tries.
	maxAnswer     = 2 * time.Second
	registerTries = 3
)

// server answers Interests.
type server struct {
	blocks block.Getter
	opts   ServerOptions
	at     endpoint
	ns     namespace
}

// run serves over one connection after the other.
func (s *server) run(ctx context.Context) {
	pause := leastPause
	for {
		registered, err := s.connection(ctx)
		if ctx.Err() != nil {
			return
		}
		if registered {
			pause = leastPause
		}
		s.opts.Log.WarnContext(ctx, "no connection to the NDN forwarder", slog.Any("error", err), slog.Duration("again_in", pause))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		pause = min(2*pause, mostPause)
	}
}

// request is an Interest in a segment.
type request struct {
	place
	token []byte
	until time.Time // the Interest lives
}

// session is one connection of a server.
type session struct {
	*server
	face     *face
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

// connection serves until the connection or ctx ends, and reports whether the
// prefix was registered.
func (s *server) connection(ctx context.Context) (registered bool, err error) {
	f, err := s.at.connect(ctx, maxAnswer)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel(nil)
	work.Go(func() { <-ctx.Done(); f.conn.Close() })
	c := &session{
		server: s, face: f, requests: make(chan request, maxQueue), absent: make(chan late, maxAbsent),
		answers: make(chan answer, 1), recent: recent{blocks: map[eris.Ref]*reading{}},
	}
	work.Go(func() { cancel(fmt.Errorf("%w: %w", errLost, f.read(c.take))) })
	work.Go(func() { c.sendLate(ctx) })
	for range s.opts.Requests {
		work.Go(func() { c.work(ctx) })
	}
	if err := c.register(ctx); err != nil {
		return false, err
	}
	s.opts.Log.InfoContext(ctx, "NDN prefix is registered", slog.String("prefix", s.opts.Prefix))
	s.opts.Registered()
	<-ctx.Done()
	return true, context.Cause(ctx)
}

// register tells the forwarder that Interests in blocks are to come here.
func (c *session) register(ctx context.Context) error {
	for range registerTries {
		command, name := appendRegister(nil, c.at.local, c.ns, nonceOf(rand.Uint64()), time.Now())
		if err := c.face.send(command); err != nil {
			return err
		}
		timer := time.NewTimer(maxAnswer)
		for waiting := true; waiting; {
			select {
			case a := <-c.answers:
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

// take takes a packet. An Interest for which there is no room is dropped: who
// sent it does so again.
func (c *session) take(p packet) {
	if p.data {
		select {
		case c.answers <- answer{slices.Clone(p.name), slices.Clone(p.content)}:
		default:
		}
		return
	}
	at, ok := c.ns.parse(p.name)
	if !ok || p.nacked {
		return
	}
	select {
	case c.requests <- request{at, slices.Clone(p.token), time.Now().Add(p.lifetime)}:
	default:
	}
}

// work answers requests until ctx ends.
func (c *session) work(ctx context.Context) {
	for {
		select {
		case r := <-c.requests:
			if time.Now().Before(r.until) {
				c.answer(ctx, r)
			}
		case <-ctx.Done():
			return
		}
	}
}

// answer answers a request. An error of the blocks is answered as if there were
// none: nobody can do anything else about it.
func (c *session) answer(ctx context.Context, r request) {
	b, err := c.recent.get(ctx, r.ref, c.blocks)
	if ctx.Err() != nil {
		return
	}
	if err != nil && !errors.Is(err, eris.ErrNotFound) {
		c.opts.Log.WarnContext(ctx, "block cannot be read", slog.String("ref", r.ref.String()), slog.Any("error", err))
	}
	name := c.ns.appendName(nil, r.place)
	n := segments(len(b))
	if err != nil || int(r.seg) >= n {
		// If there is no room, silence says the same.
		select {
		case c.absent <- late{time.Now().Add(c.opts.Absent), appendAbsent(nil, name, r.token)}:
		default:
		}
		return
	}
	part := len(b) / n
	segment := b[int(r.seg)*part:][:part]
	if c.opts.Limit != nil && c.opts.Limit.WaitN(ctx, len(segment)) != nil {
		return
	}
	// An error ends the connection, which its reader says.
	_ = c.face.send(appendBlock(nil, name, r.token, segment, n))
}

// sendLate sends answers when it is time. All wait equally long.
func (c *session) sendLate(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case l := <-c.absent:
			timer.Reset(time.Until(l.at))
			select {
			case <-timer.C:
				_ = c.face.send(l.packet) // as above
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

// reading is a block that is read, or was.
type reading struct {
	done  chan struct{} // closed when the rest is set
	block []byte
	err   error
}

// get returns a block of blocks. What failed is not remembered.
func (m *recent) get(ctx context.Context, ref eris.Ref, blocks block.Getter) ([]byte, error) {
	m.mu.Lock()
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
	close(r.done)
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.err != nil {
		delete(m.blocks, ref)
		return nil, r.err
	}
	if m.order = append(m.order, ref); len(m.order) > maxRecent {
		delete(m.blocks, m.order[0])
		m.order = m.order[1:]
	}
	return r.block, nil
}
