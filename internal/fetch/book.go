package fetch

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"

	"ersatz/eris"
)

const (
	// liarTime is how long a source that lied is not asked.
	liarTime = 30 * 24 * time.Hour

	// A source that failed is not asked for firstPause, and twice as long each
	// time that it fails again, up to lastPause.
	firstPause = 10 * time.Second
	lastPause  = time.Hour

	maxNames  = 1024 // sources in a Book
	maxName   = 512  // bytes of the name of one
	maxReason = 200  // bytes of what is said of a failure
)

// BookOptions are the optional parts of a Book. The zero value works.
type BookOptions struct {
	// Now returns the time. Default time.Now.
	Now func() time.Time

	// Log takes what an operator acts on. Default: nothing is logged.
	Log *slog.Logger
}

// Entry is what a Book has of one source, for people.
type Entry struct {
	Learnt Learnt
	Blocks int64     // that were right, since OpenBook
	Bytes  int64     // of those
	Lied   time.Time // when it last did, zero if never
	Error  string    // what it last lied or failed with; "" after a success
	Until  time.Time // until when it is not asked, zero if it may be now
}

// Book has what was learnt of sources, by name. It is where the next Mix begins,
// also after a restart: docs/node.md, "When to use what". At most 1,024 are
// remembered, those that were noted last. It is safe for concurrent use.
type Book struct {
	file string
	now  func() time.Time
	log  *slog.Logger

	mu      sync.Mutex
	records map[string]*record
	dirty   bool

	saving sync.Mutex
}

// record is what is known of one source. What it gave is not kept over a
// restart.
type record struct {
	learnt   Learnt
	noted    time.Time // when it last was
	lied     time.Time
	failures int       // in a row
	paused   time.Time // until when, after the last of them
	reason   string

	blocks, bytes int64
}

// until is until when the source is not asked.
func (r *record) until() time.Time {
	if r.lied.IsZero() || r.lied.Add(liarTime).Before(r.paused) {
		return r.paused
	}
	return r.lied.Add(liarTime)
}

// Prior returns what was learnt of a source's speed; zeros if nothing was.
func (b *Book) Prior(name string) Learnt {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.known(name); r != nil {
		return r.learnt
	}
	return Learnt{}
}

// Usable returns nil, or why a source is not to be asked now: it lied in the
// last 30 days, or failed a short time ago.
func (b *Book) Usable(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.known(name)
	if r == nil {
		return nil
	}
	now := b.now()
	switch {
	case !r.lied.IsZero() && now.Before(r.lied.Add(liarTime)):
		return fmt.Errorf("lied on %s: %s", r.lied.UTC().Format(time.DateOnly), r.reason)
	case now.Before(r.paused):
		return fmt.Errorf("failed, is asked again in %v: %s", r.paused.Sub(now).Round(time.Second), r.reason)
	}
	return nil
}

// Note takes what a source has done in a Mix, whose Stats are noted once. An
// error that matches eris.ErrCorrupt is a lie; another one has the source left
// alone for a while. Blocks without an error are a success, which ends that.
func (b *Book) Note(s Stat) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.Err == nil && s.Blocks == 0 && s.Learnt == (Learnt{}) {
		return // it was not asked
	}
	r, now := b.record(s.Name), b.now()
	if s.Learnt.Latency > 0 {
		r.learnt.Latency = s.Learnt.Latency
	}
	if s.Learnt.Pace > 0 {
		r.learnt.Pace = s.Learnt.Pace
	}
	r.blocks += s.Blocks
	r.bytes += s.Bytes
	switch {
	case errors.Is(s.Err, eris.ErrCorrupt):
		r.lied, r.reason = now, reason(s.Err.Error())
	case s.Err != nil:
		// Those that were under way at a failure share it.
		if !now.Before(r.paused) {
			r.failures++
			r.paused = now.Add(pause(r.failures))
		}
		r.reason = reason(s.Err.Error())
	case s.Blocks > 0:
		r.failures, r.paused = 0, time.Time{}
		if !now.Before(r.until()) {
			r.lied, r.reason = time.Time{}, ""
		}
	}
}

// Lied notes a lie that no hash of a block shows, such as a wrong hint.
func (b *Book) Lied(name, what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.record(name)
	r.lied, r.reason = b.now(), reason(what)
}

// Entry returns what is known of a source.
func (b *Book) Entry(name string) Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.known(name)
	if r == nil {
		return Entry{}
	}
	e := Entry{Learnt: r.learnt, Blocks: r.blocks, Bytes: r.bytes, Lied: r.lied, Error: r.reason, Until: r.until()}
	if !b.now().Before(e.Until) {
		e.Until = time.Time{}
	}
	return e
}

// known returns what is known of a source, nil if nothing is.
func (b *Book) known(name string) *record { return b.records[clip(name, maxName)] }

// record returns that of a source, which is about to be noted. The source that
// was not noted for longest gives way.
func (b *Book) record(name string) *record {
	b.dirty = true
	r := b.known(name)
	if r == nil {
		if len(b.records) >= maxNames {
			delete(b.records, b.oldest())
		}
		r = &record{}
		b.records[clip(name, maxName)] = r
	}
	r.noted = b.now()
	return r
}

func (b *Book) oldest() (name string) {
	var at time.Time
	for n, r := range b.records {
		if name == "" || r.noted.Before(at) {
			name, at = n, r.noted
		}
	}
	return name
}

// pause is how long a source is left alone after so many failures.
func pause(failures int) time.Duration {
	d := firstPause
	for range failures - 1 {
		if d *= 2; d >= lastPause {
			return lastPause
		}
	}
	return d
}

// reason makes what a source was told off for one line of a bounded size that a
// terminal can show: parts of it may be the source's own words.
func reason(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.Join(strings.Fields(s[:min(len(s), 4*maxReason)]), " "))
	return clip(s, maxReason)
}

// clip cuts a text to at most n bytes of UTF-8.
func clip(s string, n int) string {
	return strings.ToValidUTF8(s[:min(len(s), n)], "")
}
