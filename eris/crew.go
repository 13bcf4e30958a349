package eris

import (
	"slices"
	"sync"
)

// crew seals batches of leaves, in the order in which they come, by several
// goroutines. Each goes on with the next batch and ends when there is none, so that
// nobody needs to end them, and none starts anew for each batch as long as there is
// enough to do.
type crew struct {
	most int // goroutines at once

	work  sync.WaitGroup
	mu    sync.Mutex
	queue []*leafBatch // that nobody has begun, oldest first
	busy  int          // goroutines that run
}

// add has a batch sealed, which its done tells.
func (c *crew) add(b *leafBatch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, b)
	if c.busy < c.most {
		c.busy++
		c.work.Go(c.run)
	}
}

func (c *crew) run() {
	for b := c.next(); b != nil; b = c.next() {
		b.seal()
		b.done <- struct{}{}
	}
}

// next takes a batch from the queue; without one, a goroutine less is busy.
func (c *crew) next() *leafBatch {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		c.busy--
		return nil
	}
	b := c.queue[0]
	c.queue = slices.Delete(c.queue, 0, 1)
	return b
}

// stop gives up what nobody has begun, and returns when all goroutines have ended.
func (c *crew) stop() {
	c.mu.Lock()
	c.queue = nil
	c.mu.Unlock()
	c.work.Wait()
}
