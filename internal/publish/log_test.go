package publish_test

import (
	"log/slog"
	"testing"
)

// testLog logs to the test, which shows it if it fails.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// discard is for tests of what is logged as a fault.
func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
