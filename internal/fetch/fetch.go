// Package fetch gets the blocks of a content from several sources at once.
//
// A Mix is an eris.Fetcher made of others. Each source works on as many blocks
// as its speed earns; what one lacks, or still owes when it fails, lies or
// stalls, goes to the others. Those on the local network go before the rest, and
// some may hold only a part of the blocks, which grows. docs/substitute.md says
// what a source is dropped for ("Where the bytes come from"), docs/node.md how
// near and far ones are used ("When to use what").
package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ersatz/eris"
)

// MaxSources is how many sources a Mix uses; further ones are left out.
const MaxSources = 64

const (
	defaultBatch    = 2 << 20 // bytes
	maxBatch        = 512     // blocks, what one request for blocks by HTTP holds
	defaultParallel = 4
	defaultStall    = 10 * time.Second
	defaultInFlight = 64 << 20

	// grace is how long calls that have given all that they were asked for
	// may take to end, so that their connections are kept.
	grace = 250 * time.Millisecond

	// urgent is how many references make a call of Fetch go before all that
	// are under way: one internal node stands for up to 512 leaves.
	urgent = 4
)

// ErrStalled means that a source gave no useful block in time.
var ErrStalled = errors.New("no useful block in time")

// Source is one of the places that a Mix gets blocks from.
type Source struct {
	// Name is what logs, errors and Stats call it, such as its URL.
	Name string

	// Fetcher asks it. Its calls must end soon after their context has.
	Fetcher eris.Fetcher

	// Batch is how many blocks one call asks for at most. Default 2 MiB of
	// them, and no more than 512: 64 of 32 KiB, 512 of 1 KiB.
	Batch int

	// Parallel is how many calls run at most at once. Default 4.
	Parallel int

	// Near is whether it is on the local network. Far sources are only asked
	// for what no near one has, or gives in time.
	Near bool

	// Has says whether it holds a block now, for a source that holds a part of
	// all: it is not asked for others, but may get them. It is called often and
	// with the Mix locked: it must neither wait nor call the Mix. It is safe for
	// concurrent use. Default: it is asked for everything.
	Has func(eris.Ref) bool

	// Prior is what was learnt of it earlier.
	Prior Learnt
}

// Learnt is what is known of a source's speed; zeros mean nothing.
type Learnt struct {
	Latency time.Duration // until a call's first block
	Pace    time.Duration // per block after that
	Blocks  int           // that a call may ask for; a Book does not keep it, since lines change
}

// Options are the optional parts of a Mix. The zero value works.
type Options struct {
	// Stall is how long a source may give no block that is right while it is
	// being asked. Default 10 s, which a line of 50 kbit/s holds.
	Stall time.Duration

	// InFlight bounds the bytes of the blocks that are asked for at once, not
	// counting those that are asked of further sources because the first is
	// late. Default 64 MiB.
	InFlight int64

	// Log is told, at warn, of each source that is dropped, and at debug of
	// failures that are forgiven. Default: nobody.
	Log *slog.Logger
}

// Stat is what a source has done.
type Stat struct {
	Name   string
	Blocks int64 // that were right, and that no other had given before
	Bytes  int64 // of those blocks
	Learnt Learnt
	Err    error // why it was dropped, nil if it was not; matches eris.ErrCorrupt if it lied
}

// Mix is an eris.ManyFetcher over several sources. A source that was dropped stays
// so for the life of the Mix.
type Mix struct {
	stall    time.Duration
	inFlight int64
	spread   bool
	log      *slog.Logger
	lists    sync.Pool // of *[]int
	notes    sync.Pool // of *notes

	mu      sync.Mutex
	sources []*source // as they were given
	live    uint64    // bits of those that are not dropped
	part    uint64    // bits of those that hold a part
	grown   time.Time // when one of these last did
	news    int       // counts what may give a source with nothing to do something: more is wanted, or there
	jobs    []*job    // calls of Fetch that run; the first has precedence
	place   place     // where a far source takes blocks next, with spread
	front   time.Time // when one was last asked for the first ones, with spread
	took    eris.Ref  // the last block that came from one
}

var _ eris.ManyFetcher = (*Mix)(nil)

// New returns a Mix of sources. Where two are equal, the earlier is preferred.
func New(sources []Source, o Options) *Mix {
	m := &Mix{stall: o.Stall, inFlight: o.InFlight, log: o.Log}
	if m.stall <= 0 {
		m.stall = defaultStall
	}
	if m.inFlight <= 0 {
		m.inFlight = defaultInFlight
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	for _, s := range sources {
		m.add(s)
	}
	return m
}

// add adds a source if there is room. The caller has m.mu, or is New.
func (m *Mix) add(s Source) bool {
	i := len(m.sources)
	if i == MaxSources {
		return false
	}
	m.sources = append(m.sources, newSource(s, i))
	m.live |= 1 << i
	if s.Has != nil {
		m.part |= 1 << i
	}
	return true
}

// Add adds a source that has been found since New, the least preferred one. It
// reports whether there was room for it.
func (m *Mix) Add(s Source) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.add(s) {
		return false
	}
	m.grown = time.Now()
	m.news++
	m.assign(m.grown)
	return true
}

// Changed says that a source with Has holds more than before. Without being
// told, the Mix finds out after a second, and takes the source for one that has
// stopped growing.
func (m *Mix) Changed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.grown = time.Now()
	m.news++
	m.move()
	m.assign(m.grown)
}

// Spread says whether sources that have all, and far ones, are to give blocks
// from places of chance instead of the first ones, so that machines that fetch the same content at the
// same time each get what the others lack. Now and then they give some of the
// first ones all the same.
func (m *Mix) Spread(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spread = on
}

// Stats returns what the sources have done so far, in the order in which they
// were added.
func (m *Mix) Stats() []Stat {
	m.mu.Lock()
	defer m.mu.Unlock()
	stats := make([]Stat, len(m.sources))
	for i, s := range m.sources {
		stats[i] = Stat{Name: s.Name, Blocks: s.blocks, Bytes: s.bytes, Learnt: s.learnt(), Err: s.dropped}
	}
	return stats
}

// Fetch implements eris.Fetcher, as FetchMany does.
func (m *Mix) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(i int, block []byte) error) error {
	return m.FetchMany(ctx, size, refs, eris.One(got))
}

// FetchMany implements eris.ManyFetcher. A block counts as missing when each source
// that is not dropped has answered that it lacks it, or holds a part without it
// that has not grown for Options.Stall. If all are dropped, the error joins the
// reasons.
func (m *Mix) FetchMany(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	if err := ctx.Err(); err != nil || len(refs) == 0 {
		return err
	}
	calls, cancel := context.WithCancel(ctx)
	defer cancel()
	var work sync.WaitGroup
	n, ok := m.notes.Get().(*notes)
	if !ok {
		n = new(notes)
	}
	defer m.notes.Put(n)
	j := newJob(size, refs, got, n)
	j.start = func(c *call) {
		ctx, end := context.WithCancel(calls)
		c.cancel = end
		work.Go(func() {
			defer end()
			m.run(ctx, c)
		})
	}
	m.enter(j)
	m.wait(ctx, j)
	err := m.leave(j)
	defer time.AfterFunc(grace, cancel).Stop()
	work.Wait()
	if errors.Is(err, errUnfinished) {
		return ctx.Err()
	}
	return err
}

// errUnfinished means that the context ended first.
var errUnfinished = errors.New("fetch: unfinished")

// enter lets the sources work on j.
func (m *Mix) enter(j *job) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(j.refs) <= urgent {
		m.jobs = append([]*job{j}, m.jobs...)
	} else {
		m.jobs = append(m.jobs, j)
	}
	m.news++
	if m.live == 0 {
		j.fail(m.reasons())
	}
	m.assign(time.Now())
}

// wait returns when j is done or ctx has ended, and looks after the sources
// meanwhile: nothing else wakes up when a source says nothing.
func (m *Mix) wait(ctx context.Context, j *job) {
	timer := time.NewTimer(m.review(ctx, j))
	defer timer.Stop()
	for {
		select {
		case <-j.done:
			return
		case <-ctx.Done():
			return
		case <-j.wake:
		case <-timer.C:
		}
		timer.Reset(m.review(ctx, j))
	}
}

// leave ends the work on j and returns its result. Calls that still owe
// blocks are cancelled, the others end by themselves.
func (m *Mix) leave(j *job) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.jobs = remove(m.jobs, j)
	now := time.Now()
	for _, c := range j.calls {
		if c.owed > 0 {
			c.cut(now)
		}
	}
	if j.open > 0 && j.err == nil {
		return errUnfinished
	}
	return j.err
}

// reasons joins what the sources were dropped for.
func (m *Mix) reasons() error {
	errs := []error{}
	for _, s := range m.sources {
		errs = append(errs, s.dropped)
	}
	if len(errs) == 0 {
		return fmt.Errorf("no source of blocks: %w", eris.ErrNotFound)
	}
	return errors.Join(errs...)
}
