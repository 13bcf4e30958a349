package eris_test

import (
	"errors"
	"testing"

	"ersatz/eris"
)

// TestFillAfterFailedLoad wants nothing of a Run that ended while it looked at what is
// there to be taken for what the next one looks at.
func TestFillAfterFailedLoad(t *testing.T) {
	content, c, m := encoded(t, 40*1024, eris.Size1KiB)
	s := newShelf(c)
	f := eris.NewFiller(c, s, eris.FillOptions{})
	if _, err := f.Run(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	failing := &loadFails{Nodes: s, left: 20}
	f = eris.NewFiller(c, failing, eris.FillOptions{Parallel: 1})
	if _, err := f.Run(t.Context(), m); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	for i := range int64(39) { // so that the next Run looks at fewer
		if err := f.PutLeaf(i, content[i*1024:][:1024]); err != nil {
			t.Fatal(err)
		}
	}
	failing.left = 1000
	if n, err := f.Run(t.Context(), m); err != nil || n != int64(len(content)) {
		t.Errorf("then %d bytes, %v", n, err)
	}
}

// loadFails fails to load after some times.
type loadFails struct {
	eris.Nodes
	left int
}

func (l *loadFails) Load(level int, index int64, buf []byte) (bool, error) {
	if l.left--; l.left < 0 {
		return false, errBroken
	}
	return l.Nodes.Load(level, index, buf)
}
