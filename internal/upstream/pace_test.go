package upstream

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// slowBody gives a number of bytes each second.
type slowBody struct{ each, left int }

func (b *slowBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(time.Second)
	n := min(b.each, b.left, len(p))
	b.left -= n
	return n, nil
}

func (b *slowBody) Close() error { return nil }

// TestPace: a near server that nobody has chosen must give enough; others, and
// those that wait for the reader, may take their time.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			each, all  int
			peer, near bool
			pause      time.Duration // of the reader
			cut        int           // after so many bytes; 0: it comes whole
		}{
			"slow":           {nearPace - 1, 3e6, true, true, 0, 10 * (nearPace - 1)},
			"trickles":       {1, 1000, true, true, 0, 10},
			"fast enough":    {nearPace, 3e6, true, true, 0, 0},
			"small":          {1, 9, true, true, 0, 0},
			"far":            {1, 1000, true, false, 0, 0},
			"chosen":         {1, 1000, false, true, 0, 0},
			"slow reader":    {nearPace, 3e6, true, true, time.Minute, 0},
			"ends just then": {1, 10, true, true, 0, 10},
		} {
			sv := server(t, "http://a")
			sv.peer = c.peer
			sv.SetNear(c.near)
			body := sv.atPace(&slowBody{c.each, c.all})
			var got int
			var err error
			for buf := make([]byte, nearPace); err == nil; {
				var n int
				n, err = body.Read(buf)
				got += n
				time.Sleep(c.pause)
			}
			if whole := errors.Is(err, io.EOF); whole != (c.cut == 0) || !whole && (!Waited(err) || got != c.cut) || whole && got != c.all {
				t.Errorf("%s: %d bytes, %v", name, got, err)
			}
		}
	})
}

// TestPaceOfAnswers: it is looked at in all that a near peer sends.
func TestPaceOfAnswers(t *testing.T) {
	sv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader([]byte(digits)))
	})
	sv.peer = true
	sv.SetNear(true)
	c := newClient(t, Options{})
	whole, err := c.Open(t.Context(), sv, "x")
	must(t, err)
	part, err := c.OpenRange(t.Context(), sv, "x", Range{Offset: 1})
	must(t, err)
	for _, b := range []*Body{whole, part} {
		if _, ok := b.ReadCloser.(*paced); !ok {
			t.Errorf("a body of type %T", b.ReadCloser)
		}
		must(t, b.Close())
	}
}
