package main

import (
	"io"
	"sync"
)

// console is standard error, to which progress is drawn, whose line stays open
// until it is complete, and log lines are written, which want lines of their own.
type console struct {
	w io.Writer

	mu   sync.Mutex
	open bool // the last line has not ended
}

// Write writes p as it is.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(p)
}

func (c *console) write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if n > 0 {
		c.open = p[n-1] != '\n'
	}
	return n, err
}

// ownLines writes to a console, each time on a new line.
type ownLines struct{ *console }

// Write ends the line that is open, and writes p.
func (l ownLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open {
		if _, err := l.write([]byte("\n")); err != nil {
			return 0, err
		}
	}
	return l.write(p)
}
