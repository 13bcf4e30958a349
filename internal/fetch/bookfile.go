package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"time"

	"ersatz/internal/durable"
)

const (
	maxBook   = 4 << 20 // bytes of the file
	saveEvery = time.Minute
)

// line is what the file of a Book has of a source: an array of these, in JSON.
// Zero times are left out.
type line struct {
	Name     string        `json:"name"`
	Noted    time.Time     `json:"noted"`
	Latency  time.Duration `json:"latency_ns,omitempty"`
	Pace     time.Duration `json:"pace_ns,omitempty"`
	Lied     time.Time     `json:"lied,omitzero"`
	Failures int           `json:"failures,omitempty"`
	Paused   time.Time     `json:"paused,omitzero"`
	Reason   string        `json:"reason,omitempty"`
}

// OpenBook reads what an earlier process has learnt. A missing file is an empty
// Book, and so is one that cannot be parsed, which is logged.
func OpenBook(file string, o BookOptions) (*Book, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b := &Book{file: file, now: o.Now, log: o.Log, records: map[string]*record{}}
	text, err := readBook(file)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, fmt.Errorf("what was learnt of sources: %w", err)
	}
	records, err := parseBook(text, b.now())
	if err != nil {
		b.log.Warn("sources are learnt anew", slog.String("file", file), slog.Any("error", err))
		return b, nil
	}
	b.records = records
	return b, nil
}

// readBook reads a file, or of one that is too large, more than a Book may have.
func readBook(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxBook+1))
}

// parseBook reads the file of a Book. Times to come are brought down to what
// they can be: clocks are set back.
func parseBook(text []byte, now time.Time) (map[string]*record, error) {
	if len(text) > maxBook {
		return nil, fmt.Errorf("more than %d bytes", maxBook)
	}
	var lines []line
	if err := json.Unmarshal(text, &lines); err != nil {
		return nil, err
	}
	if len(lines) > maxNames {
		return nil, fmt.Errorf("%d sources, limit %d", len(lines), maxNames)
	}
	records := make(map[string]*record, len(lines))
	for _, l := range lines {
		switch {
		case l.Name == "" || l.Name != clip(l.Name, maxName) || records[l.Name] != nil:
			return nil, fmt.Errorf("name %.100q", l.Name)
		case l.Latency < 0 || l.Pace < 0 || l.Failures < 0 || l.Failures > math.MaxInt32:
			return nil, fmt.Errorf("%.100q: a negative number, or a large one", l.Name)
		}
		records[l.Name] = &record{
			learnt: Learnt{Latency: l.Latency, Pace: l.Pace}, noted: earlier(l.Noted, now), lied: earlier(l.Lied, now),
			failures: l.Failures, paused: earlier(l.Paused, now.Add(lastPause)), reason: reason(l.Reason),
		}
	}
	return records, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// text returns the file of the Book, whose lock is held.
func (b *Book) text() ([]byte, error) {
	lines := make([]line, 0, len(b.records))
	for _, name := range slices.Sorted(maps.Keys(b.records)) {
		r := b.records[name]
		lines = append(lines, line{
			Name: name, Noted: r.noted.UTC(), Latency: r.learnt.Latency, Pace: r.learnt.Pace,
			Lied: r.lied.UTC(), Failures: r.failures, Paused: r.paused.UTC(), Reason: r.reason,
		})
	}
	text, err := json.MarshalIndent(lines, "", "\t")
	return append(text, '\n'), err
}

// Save writes the file, if anything is new since it was read or written.
func (b *Book) Save() error {
	b.saving.Lock()
	defer b.saving.Unlock()
	b.mu.Lock()
	text, err := b.text()
	dirty := b.dirty
	b.dirty = false
	b.mu.Unlock()
	if !dirty {
		return nil
	}
	if err == nil {
		err = durable.WriteFile(b.file, 0o644, func(w io.Writer) error {
			_, err := w.Write(text)
			return err
		})
	}
	if err != nil {
		b.mu.Lock()
		b.dirty = true
		b.mu.Unlock()
		return fmt.Errorf("keeping what was learnt of sources: %w", err)
	}
	return nil
}

// Run saves once a minute until ctx ends, and then once more. That it cannot is
// logged: what was learnt is then lost with the process, and no more.
func (b *Book) Run(ctx context.Context) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		if err := b.Save(); err != nil {
			b.log.WarnContext(ctx, "sources", slog.Any("error", err))
		}
	}
	return nil
}
