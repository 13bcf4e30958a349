package demo

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// result is what one substitution came to.
type result struct {
	dest    string
	reply   string
	reason  string   // what the substituter told people if it had no success
	lines   []string // what came from where
	dropped map[string]bool
}

// logger returns a logger that turns what the substituter logs into lines.
func (r *result) logger() *slog.Logger { return slog.New(&reporter{r}) }

// reporter is a slog.Handler of the events about sources.
type reporter struct{ r *result }

func (h *reporter) Enabled(context.Context, slog.Level) bool { return true }
func (h *reporter) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *reporter) WithGroup(string) slog.Handler            { return h }

// Handle takes one event.
func (h *reporter) Handle(_ context.Context, rec slog.Record) error {
	a := map[string]slog.Value{}
	rec.Attrs(func(attr slog.Attr) bool { a[attr.Key] = attr.Value; return true })
	source := a["source"].String()
	switch rec.Message {
	case "source of blocks":
		if n := a["blocks"].Int64(); n > 0 {
			h.r.lines = append(h.r.lines, fmt.Sprintf("%s, %s, from %s", count(int(n), "block"), size(a["bytes"].Int64()), source))
		}
	case "source of blocks dropped":
		h.r.dropped[source] = true
		h.r.lines = append(h.r.lines, fmt.Sprintf("dropped: %v", a["error"]))
	case "source of a substitute is given up":
		h.r.lines = append(h.r.lines, fmt.Sprintf("given up: %s", lastLine(a["error"].String())))
	}
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
