package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// TestConsole: what is logged while progress is drawn stands on a line of its
// own.
func TestConsole(t *testing.T) {
	var b strings.Builder
	c := &console{w: &b}
	log := process{stderr: c}.logger(slog.LevelWarn)
	log.Warn("first")
	fmt.Fprint(c, "\rlooking...   0%")
	log.Info("not logged")
	log.Warn("second")
	log.Warn("third")
	fmt.Fprint(c, "\rlooking... 100%")
	fmt.Fprint(c, "\n")
	log.Warn("fourth")
	const want = "level=WARN msg=first\n\rlooking...   0%\nlevel=WARN msg=second\nlevel=WARN msg=third\n\rlooking... 100%\nlevel=WARN msg=fourth\n"
	if b.String() != want {
		t.Errorf("got\n%q, want\n%q", b.String(), want)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("closed") }

func TestConsoleBroken(t *testing.T) {
	c := &console{w: broken{}, open: true}
	if n, err := (ownLines{c}).Write([]byte("line\n")); n != 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
}
