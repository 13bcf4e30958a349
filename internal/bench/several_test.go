package bench

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestSeveral has all ways get a few items at once.
func TestSeveral(t *testing.T) {
	net := netOptions(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o := Options{Root: net.Root, Ersatz: net.Ersatz, Wrapper: net.Wrapper, Quick: true, Log: slog.New(slog.DiscardHandler)}
	tables, err := severalGroup(ctx, o)
	if err != nil || len(tables) != 1 {
		t.Fatalf("%v, %v", tables, err)
	}
	rows := tables[0].Rows
	if len(rows) != 2 {
		t.Errorf("%q", rows)
	}
	for _, row := range rows {
		if text := strings.Join(row, " "); len(row) != len(tables[0].Head) || strings.Contains(text, "–") || strings.Contains(text, " 0.00 s") {
			t.Errorf("%q has no figures", row)
		}
	}
}

// TestWentAside: what a fallback says is an error, and what people are told of
// an installation is none.
func TestWentAside(t *testing.T) {
	for out, want := range map[string]bool{
		"downloading from urn:eris:X ...\n":                                      false,
		"ersatz-guix: ersatz-substitute is missing: the real guix substitutes\n": true,
		`level=WARN msg="node does not give a substitute"`:                       true,
	} {
		if err := wentAside(out); (err != nil) != want {
			t.Errorf("%q: %v", out, err)
		}
	}
}
