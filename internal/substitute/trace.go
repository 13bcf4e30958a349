package substitute

import (
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"ersatz/internal/upstream"
)

// How often progress is written, as in Guix.
const progressEvery = 200 * time.Millisecond

// lookupProgress draws how many narinfos each server has answered, as Guix
// does (1.5.0, guix/substitutes.scm, fetch-narinfos). The servers are asked at
// once, but have their lines one after the other.
type lookupProgress struct {
	mu      sync.Mutex
	w       io.Writer
	pending []upstream.Pending
	answers []int
	current int // whose line is drawn
	drawn   time.Time
}

func newLookupProgress(w io.Writer, pending []upstream.Pending) *lookupProgress {
	p := &lookupProgress{w: w, pending: pending, answers: make([]int, len(pending))}
	p.advance()
	return p
}

// done counts an answer of a server.
func (p *lookupProgress) done(i int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[i]++
	if i != p.current {
		return
	}
	if p.answers[i] < p.pending[i].Count {
		if time.Since(p.drawn) >= progressEvery {
			p.draw()
		}
		return
	}
	p.advance()
}

// advance ends the lines of servers that have answered all, and starts that of
// the next which has not.
func (p *lookupProgress) advance() {
	for ; p.current < len(p.pending); p.current++ {
		total := p.pending[p.current].Count
		if total == 0 {
			continue
		}
		p.draw()
		if p.answers[p.current] < total {
			return
		}
		io.WriteString(p.w, "\n")
	}
}

func (p *lookupProgress) draw() {
	p.drawn = time.Now()
	l := p.pending[p.current]
	percent := 100 * float64(p.answers[p.current]) / float64(l.Count)
	fmt.Fprintf(p.w, "\r\x1b[Klooking for substitutes on '%s'... %5.1f%%", l.Server, percent)
}

// trace writes what the client draws of a download (Guix 1.5.0,
// guix/progress.scm, progress-reporter/trace), or, if the daemon does not ask
// for that, one line for people.
type trace struct {
	w    io.Writer
	on   bool
	dest string
	uri  string
	size int64 // -1 if unknown

	done  int64
	drawn time.Time
}

// start begins a download of size bytes, -1 if unknown.
func (t *trace) start(uri string, size int64) {
	t.uri, t.size, t.done, t.drawn = uri, size, 0, time.Now()
	if !t.on {
		fmt.Fprintf(t.w, "Downloading %s...\n", uri)
		return
	}
	fmt.Fprintf(t.w, "@ download-started %s %s %s\n", t.dest, t.uri, t.sizeText())
}

// add counts n bytes.
func (t *trace) add(n int) {
	t.done += int64(n)
	if t.on && time.Since(t.drawn) >= progressEvery {
		t.drawn = time.Now()
		t.progress()
	}
}

func (t *trace) progress() {
	fmt.Fprintf(t.w, "@ download-progress %s %s %s %d\n", t.dest, t.uri, t.sizeText(), t.done)
}

// succeed ends the download.
func (t *trace) succeed() {
	if !t.on {
		return
	}
	if t.size < 0 {
		t.size = t.done
	}
	t.progress()
	fmt.Fprintf(t.w, "@ download-succeeded %s %s %s\n\n", t.dest, t.uri, t.sizeText())
}

func (t *trace) sizeText() string {
	if t.size < 0 {
		return "-"
	}
	return strconv.FormatInt(t.size, 10)
}
