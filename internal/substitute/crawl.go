package substitute

import (
	"context"
	"os"
	"sync"
	"time"

	"ersatz/internal/upstream"
	"ersatz/storepath"
)

// Bounds of what is looked up before it is asked for.
const (
	crawlAtOnce = 16          // items
	crawlHeld   = 256         // items that were looked up, or are being, and not asked for
	crawlText   = 64 << 10    // bytes of the narinfos of one of them
	crawlMost   = 1 << 14     // items that one process looks up so
	crawlFor    = time.Minute // for how long what was found then holds
)

// crawler looks up what items refer to: the daemon queries a closure path by
// path and waits for each answer, so that latency would count once per item.
// It is safe for concurrent use.
type crawler struct {
	look func(ctx context.Context, p storepath.Path) []upstream.Answer
	now  func() time.Time
	ctx  context.Context
	end  context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex
	queue   []reference
	seen    map[storepath.Path]bool // all that there were; true: in the queue
	held    map[storepath.Path]*finding
	running int
}

// reference is an item that another one refers to, under the rules of the query
// that found that one.
type reference struct {
	path  storepath.Path
	rules rules
}

// finding is what servers say of an item that nobody has asked for.
type finding struct {
	done    chan struct{} // closed when the answers are there
	answers []upstream.Answer
	at      time.Time
}

func newCrawler(look func(context.Context, storepath.Path) []upstream.Answer, now func() time.Time) *crawler {
	c := &crawler{look: look, now: now, seen: map[storepath.Path]bool{}, held: map[storepath.Path]*finding{}}
	c.ctx, c.end = context.WithCancel(context.Background())
	return c
}

// close ends all look-ups.
func (c *crawler) close() {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.work.Wait()
}

// take returns what servers say of an item, if it was looked up or is being;
// that is its last use.
func (c *crawler) take(ctx context.Context, p storepath.Path) ([]upstream.Answer, bool) {
	c.mu.Lock()
	if _, seen := c.seen[p]; seen || len(c.seen) < crawlMost {
		c.seen[p] = false
	}
	f := c.held[p]
	c.mu.Unlock()
	if f == nil {
		return nil, false
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, p)
	c.pump()
	return f.answers, f.answers != nil && c.now().Sub(f.at) < crawlFor
}

// follow looks up what items refer to that is in no store.
func (c *crawler) follow(r rules, choices []upstream.Choice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, choice := range choices {
		if len(choice.Builds) == 0 {
			continue
		}
		for _, base := range choice.Builds[0].Signed.References {
			p, err := storepath.ParseBase(choice.Path.Dir, base)
			if _, seen := c.seen[p]; err != nil || seen || len(c.seen) == crawlMost {
				continue
			}
			_, err = os.Lstat(p.String())
			if c.seen[p] = err != nil; err != nil {
				c.queue = append(c.queue, reference{p, r})
			}
		}
	}
	c.pump()
}

// pump begins the look-ups that may begin. The caller has c.mu.
func (c *crawler) pump() {
	for p, f := range c.held {
		if !f.at.IsZero() && c.now().Sub(f.at) >= crawlFor {
			delete(c.held, p)
		}
	}
	for c.ctx.Err() == nil && len(c.queue) > 0 && c.running < crawlAtOnce && len(c.held) < crawlHeld {
		ref := c.queue[0]
		c.queue = c.queue[1:]
		if !c.seen[ref.path] {
			continue // it was asked for meanwhile
		}
		c.seen[ref.path] = false
		f := &finding{done: make(chan struct{})}
		c.held[ref.path] = f
		c.running++
		c.work.Go(func() { c.find(ref, f) })
	}
}

// find looks an item up, and then what it refers to.
func (c *crawler) find(ref reference, f *finding) {
	answers := c.look(c.ctx, ref.path)
	size := 0
	for _, a := range answers {
		size += len(a.Text)
	}
	choice := ref.rules.choose(ref.path, answers)
	c.mu.Lock()
	if f.at = c.now(); size <= crawlText {
		f.answers = answers
	}
	c.running--
	c.mu.Unlock()
	close(f.done)
	c.follow(ref.rules, []upstream.Choice{choice})
}
