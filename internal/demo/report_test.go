package demo

import (
	"errors"
	"log/slog"
	"slices"
	"testing"

	"ersatz/storepath"
)

// TestEvents makes lines of what a substituter and a node log.
func TestEvents(t *testing.T) {
	p, err := storepath.Parse("/gnu/store/khaaib6s836bk5kbik239hlk6n6ianc4-hello-2.11")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{name: "one", events: newEvents(), has: map[[32]byte]bool{}}
	i := &item{path: p}
	log := m.events.logger().With(slog.String("store_path", p.String()))
	log.Info("source of blocks", slog.String("source", "http://a"), slog.Int64("blocks", 3), slog.Int64("bytes", 98304))
	log.Info("source of blocks", slog.String("source", "http://b"), slog.Int64("blocks", 0), slog.Int64("bytes", 0))
	log.Warn("source of blocks dropped", slog.String("source", "http://b"), slog.Any("error", errors.New("liar")))
	log.Warn("source of an item is given up", slog.String("source", "urn:eris:x"), slog.Any("error", errors.New("first\nlast")))
	log.Debug("request", slog.String("path", "/"))
	log.With(slog.String("store_path", "/gnu/store/other")).Debug("item is kept", slog.String("source", "urn:eris:y"))
	log.Debug("item is kept", slog.String("source", "http://a/nar/x"), slog.Int64("bytes", 1000))

	var r, again result
	if err := m.tell(t.Context(), i, &r); err != nil {
		t.Fatal(err)
	}
	want := []string{"3 blocks, 98 kB, from http://a", "dropped: liar", "given up: last", "1000 B from http://a/nar/x"}
	if !slices.Equal(r.lines, want) {
		t.Errorf("lines %q", r.lines)
	}
	if r.seen["http://a"] != (source{blocks: 3}) || r.seen["http://b"] != (source{dropped: true}) {
		t.Errorf("sources %+v", r.seen)
	}
	if err := m.tell(t.Context(), i, &again); err != nil || !slices.Equal(again.lines, []string{"kept by node one"}) || len(again.seen) != 0 {
		t.Errorf("the second time: %+v, %v", again, err)
	}
}
