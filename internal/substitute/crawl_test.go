package substitute

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

// number returns the nth of many store paths, none of which is there.
func number(n int) storepath.Path {
	return storepath.Path{Dir: "/gnu/store", Hash: nixbase32.Encode(fmt.Appendf(nil, "%020d", n)), Name: "item"}
}

// referring returns what a query found, of an item with so many references.
func referring(to ...int) []upstream.Choice {
	b := &upstream.Build{Signed: narinfo.Signed{}}
	for _, n := range to {
		b.Signed.References = append(b.Signed.References, number(n).Base())
	}
	return []upstream.Choice{{Path: number(-1), Builds: []*upstream.Build{b}}}
}

func upTo(n int) []int {
	all := make([]int, n)
	for k := range all {
		all[k] = k
	}
	return all
}

// slowLook takes a second for each item, and counts.
type slowLook struct {
	mu        sync.Mutex
	looked    map[storepath.Path]int
	now, most int
	size      int // of each answer
}

func (l *slowLook) look(ctx context.Context, p storepath.Path) []upstream.Answer {
	l.mu.Lock()
	l.looked[p]++
	l.now++
	l.most = max(l.most, l.now)
	l.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now--
	return []upstream.Answer{{Text: []byte(strings.Repeat("x", l.size))}}
}

// of returns how often an item was looked up.
func (l *slowLook) of(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.looked[number(n)]
}

func (l *slowLook) total() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, times := range l.looked {
		n += times
	}
	return n
}

// crawling runs a test with a crawler in a bubble.
func crawling(t *testing.T, test func(t *testing.T, c *crawler, l *slowLook)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &slowLook{looked: map[storepath.Path]int{}, size: 100}
		c := newCrawler(l.look, time.Now)
		test(t, c, l)
		c.close()
	})
}

func TestCrawlBounds(t *testing.T) {
	crawling(t, func(t *testing.T, c *crawler, l *slowLook) {
		c.follow(rules{}, referring(upTo(crawlHeld+100)...))
		time.Sleep(30 * time.Second)
		if l.total() != crawlHeld || l.most != crawlAtOnce {
			t.Errorf("%d were looked up, %d at once", l.total(), l.most)
		}
		for n := range crawlHeld {
			if answers, ok := c.take(t.Context(), number(n)); !ok || len(answers) != 1 {
				t.Fatalf("item %d was not looked up", n)
			}
		}
		time.Sleep(30 * time.Second)
		if l.total() != crawlHeld+100 {
			t.Errorf("then, %d were", l.total())
		}
		c.follow(rules{}, referring(upTo(2*crawlMost)...))
		if len(c.seen) != crawlMost || len(c.queue) > crawlMost {
			t.Errorf("%d are remembered, %d in the queue", len(c.seen), len(c.queue))
		}
	})
}

func TestCrawlTake(t *testing.T) {
	crawling(t, func(t *testing.T, c *crawler, l *slowLook) {
		if _, ok := c.take(t.Context(), number(0)); ok {
			t.Error("an item that nobody refers to was looked up")
		}
		c.follow(rules{}, referring(upTo(crawlAtOnce+3)...))
		begin := time.Now()
		if _, ok := c.take(t.Context(), number(1)); !ok || time.Since(begin) != time.Second {
			t.Errorf("%t after %v: an item that is being looked up is waited for", ok, time.Since(begin))
		}
		if _, ok := c.take(t.Context(), number(1)); ok {
			t.Error("an answer was used twice")
		}
		time.Sleep(time.Minute)
		if _, ok := c.take(t.Context(), number(2)); ok {
			t.Error("an answer of a minute ago holds")
		}
		if l.of(0) != 0 {
			t.Error("what had been asked for was looked up")
		}
	})
}

// TestCrawlQueued: what is asked for while it is in the queue is not looked up.
func TestCrawlQueued(t *testing.T) {
	crawling(t, func(t *testing.T, c *crawler, l *slowLook) {
		c.follow(rules{}, referring(upTo(crawlAtOnce+2)...))
		if _, ok := c.take(t.Context(), number(crawlAtOnce)); ok {
			t.Error("an item in the queue was looked up")
		}
		time.Sleep(10 * time.Second)
		if l.of(crawlAtOnce) != 0 || l.of(crawlAtOnce+1) != 1 {
			t.Errorf("%d look-ups", l.total())
		}
	})
}

// TestCrawlLarge: nobody makes a substituter hold much, and what does not listen
// ends with it.
func TestCrawlLarge(t *testing.T) {
	crawling(t, func(t *testing.T, c *crawler, l *slowLook) {
		l.size = crawlText + 1
		c.follow(rules{}, referring(0, 1))
		if _, ok := c.take(t.Context(), number(0)); ok {
			t.Error("a large answer was held")
		}
		c.follow(rules{}, referring(2))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, ok := c.take(ctx, number(2)); ok {
			t.Error("waited beyond the end")
		}
		begin := time.Now()
		c.close()
		if took := time.Since(begin); took != 0 {
			t.Errorf("the end took %v", took)
		}
	})
}
