package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"ersatz/internal/keep"
	"ersatz/internal/metrics"
	"ersatz/internal/node"
	"ersatz/internal/upstream"
)

// maxRounds bounds how often all ways to an item are tried.
const maxRounds = 20

// item is an item on its way: one transfer, whoever wants it.
type item struct {
	t      *Transfers
	want   node.Want
	build  *upstream.Build
	cancel context.CancelFunc
	log    *slog.Logger

	// Of run alone:
	bad    map[keep.PartID]bool      // contents that were whole and wrong
	anew   map[keep.PartID]bool      // pieces that were put together and wrong: begun anew, once
	waited map[*upstream.Server]bool // servers that were waited for in vain
	best   int64                     // most bytes that a part has had

	unasked bool // peers were not asked in this round

	mu      sync.Mutex
	users   int         // who reads, or will
	idle    *time.Timer // ends the transfer; nil while somebody wants it
	asked   bool        // somebody asked for the item, or does
	current *try        // nil between ways, and in the end if all failed
	changed chan struct{}
	ended   bool
	err     error // why it ended
}

// try is one way of getting an item, being gone.
type try struct {
	part   *keep.Part
	method string
	source string        // for people
	filled chan struct{} // closed when all is there

	// Under item.mu:
	readers int  // who read it
	right   bool // one of these found that it is the nar
	wrong   bool // one of these found that it is not
}

// localError says that this machine is at fault, and no other source helps.
type localError struct{ error }

func (e *localError) Unwrap() error { return e.error }

// join counts one more who wants the item.
func (i *item) join(ahead bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.users++
	i.asked = i.asked || !ahead
	if i.idle != nil {
		i.idle.Stop()
		i.idle = nil
	}
}

// leave counts one less. A transfer that nobody wants ends soon.
func (i *item) leave() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.users--; i.users == 0 && !i.ended {
		i.idle = time.AfterFunc(linger, func() {
			i.mu.Lock()
			defer i.mu.Unlock()
			if i.users == 0 {
				i.cancel()
			}
		})
	}
}

var (
	// errOver means that a transfer has ended well: the item is kept, if it can be.
	errOver = errors.New("transfer is over")

	// errIdle means that nobody wanted the item any more.
	errIdle = errors.New("nobody waits for the transfer")
)

// next returns a reader of the content of the way that is being gone now, when
// that is another one than last; done ends the reading. It waits for one. The
// error is that of the transfer when there is no further way, or errOver.
func (i *item) next(ctx context.Context, last *try) (*try, io.ReadCloser, error) {
	for {
		i.mu.Lock()
		current, changed, ended, err := i.current, i.changed, i.ended, i.err
		if current != nil && current != last {
			r := current.part.Reader(ctx)
			current.readers++
			i.wake()
			i.mu.Unlock()
			return current, r, nil
		}
		i.mu.Unlock()
		if ended {
			if err == nil {
				err = errOver
			}
			return nil, nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// found says that a reader of a way has found the nar right, whose length in bytes
// it knows.
func (i *item) found(t *try, size int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	t.right = t.right || size == int64(i.build.Signed.NarSize)
	i.wake()
}

// done counts a reader less, which may have found that it is not the nar.
func (i *item) done(t *try, wrong bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	t.readers--
	t.wrong = t.wrong || wrong
	i.wake()
}

// set makes c the way that is being gone, nil for none.
func (i *item) set(c *try) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.current = c
	i.wake()
}

// wake tells those who wait in next. The caller has i.mu.
func (i *item) wake() {
	close(i.changed)
	i.changed = make(chan struct{})
}

// finish says that the transfer has ended.
func (i *item) finish(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ended, i.err = true, err
	if i.idle != nil {
		i.idle.Stop()
	}
	i.wake()
}

// become sets what is fetched: who has t.mu may read it at any time.
func (i *item) become(w node.Want) {
	i.t.mu.Lock()
	defer i.t.mu.Unlock()
	i.want, i.build = w, w.Choice.Builds[0]
}

// run goes one way after the other until the item is whole.
func (i *item) run(ctx context.Context) error {
	turn, err := i.wait(ctx)
	if err == nil {
		i.become(i.t.o.Join(ctx, i.want))
		err = i.rounds(ctx)
		turn()
	}
	switch {
	case err == nil:
		i.t.o.Count.Ended(metrics.Done)
	case i.t.ctx.Err() != nil:
		i.t.o.Count.Ended(metrics.Cancelled)
		return ErrClosed
	case ctx.Err() != nil:
		i.t.o.Count.Ended(metrics.Cancelled)
		return errIdle
	case errors.Is(err, node.ErrNone):
		i.t.o.Count.Ended(metrics.Absent)
		i.log.InfoContext(ctx, "nobody has an item")
	default:
		i.t.o.Count.Ended(metrics.Failed)
		i.log.WarnContext(ctx, "transfer failed", slog.Any("error", err))
	}
	return err
}

// wait waits for the turn of an item that somebody asked for; over ends the turn.
// What is fetched ahead is bounded by who does that.
func (i *item) wait(ctx context.Context) (over func(), err error) {
	i.mu.Lock()
	asked := i.asked
	i.mu.Unlock()
	if !asked {
		return func() {}, nil
	}
	select {
	case i.t.slots <- struct{}{}:
		return func() { <-i.t.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// rounds tries all ways, again as long as that brings more, and once more if a
// connection broke off: what a source has, it has.
func (i *item) rounds(ctx context.Context) error {
	var errs []error
	for round := 1; ; round++ {
		before, again := i.best, false
		ways := i.ways(ctx, round == 1)
		switch {
		case len(ways) > 0:
			errs = nil
		case round == 1:
			return fmt.Errorf("%s: %w", i.want.Path, node.ErrNone)
		}
		for len(ways) > 0 {
			w := ways[0]
			ways = ways[1:]
			if i.bad[w.id] || w.done != nil && w.done() {
				continue // its source has lied in another way, or was asked in one
			}
			err := i.try(ctx, w)
			if err == nil || ctx.Err() != nil {
				return err
			}
			var local *localError
			if errs = append(errs, fmt.Errorf("%s: %w", w.source, err)); errors.As(err, &local) {
				return errors.Join(errs...)
			}
			again = again || round == 1 && upstream.BrokeOff(err) && !isWrong(err)
			if isWrong(err) && !i.bad[w.id] {
				ways = slices.Insert(ways, 0, w)
			}
			if w.server != nil && upstream.Waited(err) {
				i.waited[w.server] = true
				if w.hurried {
					w.hurried = false
					ways = append(ways, w)
				}
				slices.SortStableFunc(ways, func(a, b way) int { return i.rank(a) - i.rank(b) })
			}
			i.log.WarnContext(ctx, "source of an item is given up", slog.String("source", w.source), slog.Any("error", err))
		}
		if !again && !i.unasked && i.best == before || round == maxRounds {
			return errors.Join(errs...)
		}
	}
}

// rank is 1 for a way to a server that has been waited for in vain.
func (i *item) rank(w way) int {
	if i.waited[w.server] {
		return 1
	}
	return 0
}

// try goes one way. Who reads the item reads along.
func (i *item) try(ctx context.Context, w way) (err error) {
	part, fill, err := w.open(ctx, w.hurried)
	if err != nil {
		return err
	}
	defer func() {
		i.best = max(i.best, w.have())
		i.set(nil) // nobody opens a reader any more
		if cerr := part.Close(); cerr != nil {
			i.log.WarnContext(ctx, "closing a part", slog.Any("error", cerr))
		}
	}()
	t := &try{part: part, method: w.method, source: w.source, filled: make(chan struct{})}
	i.set(t)
	checks, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	verdict := make(chan error, 1)
	go func() {
		err := i.check(checks, t)
		if err != nil {
			cancel(err) // what is wrong already need not come whole
		}
		verdict <- err
	}()
	tree, err := fill(checks, part)
	if err != nil {
		part.Fail(err)
		cancel(err)
		if v := <-verdict; isWrong(v) || v != nil && ctx.Err() == nil && errors.Is(err, context.Canceled) {
			err = v
		}
		return i.condemn(ctx, part, w, err)
	}
	close(t.filled)
	if err := <-verdict; err != nil {
		return i.condemn(ctx, part, w, err)
	}
	i.commit(ctx, part, w, tree)
	return nil
}

// condemn forgets a content that is not what was signed, and says who is to
// blame. It returns err.
func (i *item) condemn(ctx context.Context, part *keep.Part, w way, err error) error {
	if !isWrong(err) || ctx.Err() != nil {
		return err
	}
	if w.pieced != nil && w.pieced() && !i.anew[w.id] {
		i.anew[w.id] = true
	} else {
		i.bad[w.id] = true
		if w.blame != nil {
			w.blame(err)
		}
	}
	if rerr := part.Reset(); rerr != nil {
		return &localError{errors.Join(err, rerr)}
	}
	return err
}

// commit keeps the item. If that cannot be, those who read it read on.
func (i *item) commit(ctx context.Context, part *keep.Part, w way, tree keep.Tree) {
	record := w.item
	i.mu.Lock()
	record.Asked = i.asked
	i.mu.Unlock()
	kept, err := part.Commit(ctx, record, tree)
	switch {
	case err == nil:
		i.log.DebugContext(ctx, "item is kept", slog.String("source", w.source), slog.Int64("bytes", kept.Size))
	case errors.Is(err, keep.ErrQuota):
		i.log.InfoContext(ctx, "item is larger than the quota and is not kept", slog.Int64("bytes", part.Length()))
	case ctx.Err() == nil:
		i.log.WarnContext(ctx, "item is not kept", slog.Any("error", err))
	}
}

// over waits until the transfer has ended, and returns why.
func (i *item) over(ctx context.Context) error {
	for {
		i.mu.Lock()
		changed, ended, err := i.changed, i.ended, i.err
		i.mu.Unlock()
		if ended {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
