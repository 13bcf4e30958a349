package main

import (
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress is told of work done: each byte written is a byte of work.
type progress interface {
	io.Writer
	Close() error
}

// progress returns a bar on stderr if that is a terminal, of total bytes or,
// with -1, without an end; else something that shows nothing.
func (a *app) progress(what string, total int64) progress {
	if !isTerminal(a.stderr) {
		return noProgress{}
	}
	return progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(a.stderr),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetPredictTime(total > 0),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionFullWidth(),
	)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

type noProgress struct{}

func (noProgress) Write(p []byte) (int, error) { return len(p), nil }
func (noProgress) Close() error                { return nil }
