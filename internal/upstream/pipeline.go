package upstream

import (
	"context"
	"net/http"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"ersatz/internal/transport/httpclient"
)

const (
	// pipelineFrom is how many narinfos are worth connections of their own, and
	// pipelines how many of these there are: a server that takes long for one
	// narinfo holds up those that were asked for behind it.
	pipelineFrom = 16
	pipelines    = 4
)

// pipeline asks a server for many narinfos on few connections, and returns those
// that are to be asked for one by one: all if there are few or the server cannot
// be asked so, and else what the server did not answer, or did not answer here.
func (c *Client) pipeline(ctx context.Context, l *lookup, j int, queries []query, answers [][]Answer, answered func(j int)) []int {
	sv := l.server
	if len(l.missing) < pipelineFrom {
		return l.missing
	}
	header := http.Header{}
	c.mark(sv, header)
	p, ok := httpclient.NewPipeline(c.httpOf(sv), sv.base, header)
	if !ok {
		return l.missing
	}
	var mu sync.Mutex
	queue, alone := slices.Clone(l.missing), []int(nil)
	more := func() bool { return len(queue) > 0 && l.dead.Load() == nil } // with mu
	// run asks on one connection, and returns how many answers came. What it is
	// owed in the end is asked for elsewhere.
	run := func() (came int, err error) {
		var owed []int
		next := func() (int, string, bool) {
			mu.Lock()
			defer mu.Unlock()
			if !more() {
				return 0, "", false
			}
			i := queue[0]
			queue, owed = queue[1:], append(owed, i)
			return i, queries[i].file(), true
		}
		got := func(i int, resp *http.Response) {
			owed = owed[1:]
			a, ok := c.answerOf(ctx, l, queries[i], resp)
			if !ok {
				mu.Lock()
				defer mu.Unlock()
				alone = append(alone, i)
				return
			}
			answers[i][j] = a
			answered(j)
			came++
		}
		err = p.Run(ctx, next, got)
		mu.Lock()
		defer mu.Unlock()
		queue = append(queue, owed...)
		return came, err
	}
	// runs goes on: servers end a connection after some hundred requests. One that
	// does so after a few is better asked for one by one.
	runs := func() error {
		for short := 0; ; {
			mu.Lock()
			ok := more()
			mu.Unlock()
			if !ok {
				return nil // no connection for nothing, or to a server that rests
			}
			came, err := run()
			if came < pipelineFrom {
				short++
			}
			if err == nil || came == 0 || short > 1 || !BrokeOff(err) {
				return err
			}
		}
	}
	var group errgroup.Group
	for range min(pipelines, len(l.missing)/pipelineFrom) {
		group.Go(runs)
	}
	err := group.Wait()
	left := append(alone, queue...)
	slices.Sort(left)
	if len(left) == len(l.missing) && Waited(err) && ctx.Err() == nil {
		// One by one they would wait as long, and in vain. If something came, what
		// is between may know no pipelines.
		answers[left[0]][j] = c.settle(ctx, l, queries[left[0]], nil, 0, err)
		answered(j)
		left = left[1:]
	}
	return left
}

// answerOf reads an answer, unless it is better asked for alone: a redirect is
// followed there, and one that broke off asked for once more.
func (c *Client) answerOf(ctx context.Context, l *lookup, q query, resp *http.Response) (Answer, bool) {
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		text, err := readAll(l.server.atPace(resp.Body), resp.ContentLength)
		if err != nil && BrokeOff(err) {
			return Answer{}, false
		}
		return c.settle(ctx, l, q, text, maxAge(resp.Header, foundTTL), err), true
	case code >= 300 && code < 400:
		return Answer{}, false
	}
	return c.settle(ctx, l, q, nil, maxAge(resp.Header, absentTTL), refusal(resp)), true
}
