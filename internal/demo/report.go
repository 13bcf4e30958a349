package demo

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// result is what one substitution came to.
type result struct {
	dest   string
	reply  string
	reason string   // what the substituter told people if it had no success
	lines  []string // what came from where
	seen   map[string]source
}

// source is what was seen of a source of blocks, by its URL.
type source struct {
	blocks  int64
	dropped bool
}

// events are what a substituter or a node logs of sources. They are safe for
// concurrent use.
type events struct {
	mu    sync.Mutex
	lines []string
	seen  map[string]source
	kept  chan string // store paths of items that a node has whole
}

func newEvents() *events { return &events{seen: map[string]source{}, kept: make(chan string, 64)} }

// logger returns a logger that makes events of what is logged.
func (e *events) logger() *slog.Logger { return slog.New(&reporter{events: e}) }

// take moves what has come since the last time into r.
func (e *events) take(r *result) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r.lines, r.seen = append(r.lines, e.lines...), e.seen
	e.lines, e.seen = nil, map[string]source{}
}

// reporter is a slog.Handler of the events about sources.
type reporter struct {
	*events
	path string // store path that all events are about; or ""
}

func (h *reporter) Enabled(context.Context, slog.Level) bool { return true }
func (h *reporter) WithGroup(string) slog.Handler            { return h }

func (h *reporter) WithAttrs(attrs []slog.Attr) slog.Handler {
	path := h.path
	for _, a := range attrs {
		if a.Key == "store_path" {
			path = a.Value.String()
		}
	}
	return &reporter{h.events, path}
}

// Handle takes one event.
func (h *reporter) Handle(_ context.Context, rec slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := map[string]slog.Value{}
	rec.Attrs(func(attr slog.Attr) bool { a[attr.Key] = attr.Value; return true })
	name := a["source"].String()
	s := h.seen[name]
	switch rec.Message {
	case "source of blocks":
		if n := a["blocks"].Int64(); n > 0 {
			s.blocks += n
			h.lines = append(h.lines, fmt.Sprintf("%s, %s, from %s", count(int(n), "block"), size(a["bytes"].Int64()), name))
		}
	case "source of blocks dropped":
		s.dropped = true
		h.lines = append(h.lines, fmt.Sprintf("dropped: %v", a["error"]))
	case "source of a substitute is given up", "source of an item is given up":
		h.lines = append(h.lines, fmt.Sprintf("given up: %s", lastLine(a["error"].String())))
	case "item is kept":
		select {
		case h.kept <- h.path:
		default: // nobody waits for it
		}
		if !strings.HasPrefix(name, "urn:") {
			h.lines = append(h.lines, fmt.Sprintf("%s from %s", size(a["bytes"].Int64()), name))
		}
	default:
		return nil
	}
	h.seen[name] = s
	return nil
}

// reason returns what stands below the substituter's "no substitute for ITEM:".
func reason(messages string) string {
	_, text, _ := strings.Cut(messages, "no substitute for ")
	_, text, _ = strings.Cut(text, "\n")
	return strings.ReplaceAll(strings.TrimSpace(text), "\n  ", "\n     ")
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}
