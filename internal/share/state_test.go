package share

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ersatz/internal/block"
)

// TestBrokenState: a state that is broken, wherever that is, is set aside with a
// warning, and the next one remembers.
func TestBrokenState(t *testing.T) {
	const many = 300
	for name, spoil := range map[string]func([]byte) []byte{
		"no database": func(b []byte) []byte { return []byte(strings.Repeat("no database", 1000)) },
		"cut":         func(b []byte) []byte { return b[:len(b)/2] },
		"overwritten": func(b []byte) []byte {
			clear(b[len(b)-4096:])
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "shares.sqlite")
			var log bytes.Buffer
			logger := slog.New(slog.NewTextHandler(&log, nil))
			known := func(want int) *state {
				t.Helper()
				s, err := openState(file, logger)
				if err != nil {
					t.Fatal(err)
				}
				n := 0
				if err := s.each(t.Context(), "net", func(block.Shared, time.Time) { n++ }); err != nil || n != want {
					t.Errorf("%d contents, %v; want %d", n, err, want)
				}
				return s
			}
			fill := func(s *state) {
				t.Helper()
				for i := range many {
					if err := s.put(t.Context(), "net", shared(i), ""); err != nil {
						t.Fatal(err)
					}
				}
				if err := s.close(); err != nil {
					t.Fatal(err)
				}
			}
			fill(known(0))
			if err := known(many).close(); err != nil || log.Len() > 0 {
				t.Fatalf("%v; log: %s", err, &log)
			}
			whole, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			broken := spoil(whole)
			if err := os.WriteFile(file, broken, 0o600); err != nil {
				t.Fatal(err)
			}
			fill(known(0))
			if n := strings.Count(log.String(), "set_aside="+file+".broken"); n != 1 {
				t.Errorf("log: %s", &log)
			}
			if err := known(many).close(); err != nil {
				t.Error(err)
			}
			if aside, err := os.ReadFile(file + ".broken"); err != nil || !bytes.Equal(aside, broken) {
				t.Errorf("%d bytes are aside, of %d; %v", len(aside), len(broken), err)
			}
		})
	}
}

// TestBrokenRow: what is broken within a row keeps none of the others from being read,
// and is written anew.
func TestBrokenRow(t *testing.T) {
	s, err := openState(filepath.Join(t.TempDir(), "shares.sqlite"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	count := func() (n int) {
		t.Helper()
		if err := s.each(t.Context(), "net", func(block.Shared, time.Time) { n++ }); err != nil {
			t.Error(err)
		}
		return n
	}
	put := func(i int) {
		t.Helper()
		if err := s.put(t.Context(), "net", shared(i), ""); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		put(i)
	}
	root := shared(1).ReadCap.Root
	if _, err := s.db.Exec(`UPDATE shares SET cap = x'ff' WHERE root = ?`, root[:]); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 2 {
		t.Errorf("%d contents, want 2", n)
	}
	if put(1); count() != 3 {
		t.Errorf("%d contents, want 3", count())
	}
}
