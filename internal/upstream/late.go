package upstream

import (
	"context"
	"errors"
	"os"
	"time"
)

const (
	// restTime is how long a server for which a request waited in vain is left
	// alone. One that fails at once is asked again by the next request.
	restTime = 30 * time.Second

	// lateTime is for how long after that nobody waits for it who has a narinfo
	// from another one.
	lateTime = 10 * time.Minute

	// slowMark is what stands in the cache, in place of an item's hash, for such a
	// server: it expires when the rest is over.
	slowMark = "slow"
)

var (
	errResting = errors.New("it did not answer in time a moment ago")
	errLate    = errors.New("it did not answer in time of late, and is not waited for")
)

// waited notes that a server was waited for in vain. All processes that share
// the cache know it, if there is one; of peers nothing is kept on disk, since
// anybody can be one.
func (c *Client) waited(sv *Server) {
	until := c.o.Now().Add(restTime)
	if sv.peer || c.cache == nil {
		sv.rest.Store(until.Unix())
		return
	}
	c.cache.put(sv, slowMark, nil, until)
}

// lateness reports whether a server rests, and if not, whether it is late: it
// has not answered since.
func (c *Client) lateness(sv *Server) (rests, late bool) {
	until := sv.rest.Load()
	if c.cache != nil && !sv.peer {
		if e, err := readEntry(c.cache.file(sv, slowMark)); err == nil {
			until = e.expires
		}
	}
	now := c.o.Now().Unix()
	return now < until, now < until+int64(lateTime/time.Second)
}

// forgive notes that a server which was late has answered.
func (c *Client) forgive(sv *Server) {
	sv.rest.Store(0)
	if c.cache != nil && !sv.peer {
		os.Remove(c.cache.file(sv, slowMark)) // an error leaves it late for a while
	}
}

// probe finds out, in the background, whether a server that is late answers
// again. q is what it is asked.
func (c *Client) probe(sv *Server, q query) {
	if !sv.probed.CompareAndSwap(false, true) {
		return
	}
	c.work.Go(func() {
		defer sv.probed.Store(false)
		ctx, cancel := context.WithTimeout(c.ctx, 3*c.o.Stall)
		defer cancel()
		c.askOne(ctx, &lookup{server: sv, late: true, most: leastTexts}, q)
	})
}
