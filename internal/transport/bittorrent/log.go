package bittorrent

import (
	"context"
	"log/slog"
)

// quiet hands on what the library says, as debug messages: it is about a peer or a
// tracker, of which there are many, and nothing to act on; strangers can cause
// it. Its own debug messages, thousands per second, are dropped.
type quiet struct{ next slog.Handler }

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level > slog.LevelDebug && q.next.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler. The library does not always ask before.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if !q.Enabled(ctx, r.Level) {
		return nil
	}
	r.Level = slog.LevelDebug
	return q.next.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.next.WithAttrs(attrs)} }
func (q quiet) WithGroup(name string) slog.Handler       { return quiet{q.next.WithGroup(name)} }
