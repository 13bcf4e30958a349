package transfer

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"ersatz/internal/upstream"
)

// TestWrongNar: a server found nearby that gives another nar is asked for none
// again, in whichever form, and one that was chosen is asked after others.
func TestWrongNar(t *testing.T) {
	for _, near := range []bool{true, false} {
		x := newThing(t, 1, 3<<20, "zstd", "gzip").unsigned()
		wrong := newThing(t, 2, 3<<20, "zstd", "gzip")
		good, liar := newOrigin(t, x), newOrigin(t, x)
		liar.set(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/nar/") {
				return false
			}
			w.Write(wrong.files[strings.Split(r.URL.Path, "/")[2]])
			return true
		})
		m := newMachine(t).start()
		w := x.want(t, good.url)
		if near {
			sv, err := upstream.ParsePeer(liar.url)
			must(t, err)
			w.Choice.Builds[0].Join([]upstream.Answer{{Server: sv, Text: x.text(t)}})
		} else {
			w = x.want(t, liar.url, good.url)
		}
		// Who was given some of the wrong nar is cut off, and comes again.
		if b, err := m.get(w); err == nil && !bytes.Equal(b, x.nar) {
			t.Error("a wrong nar is given")
		}
		m.receives(x, w)
		_, asked := liar.gave("nar")
		switch lied := !m.book.Entry(liar.url).Lied.IsZero(); {
		case near && (asked != 1 || !lied):
			t.Errorf("a near server was asked %d times, and is known to have lied: %t", asked, lied)
		case !near && (lied || m.book.Usable("nar "+liar.url) == nil):
			t.Errorf("an upstream lied: %t, or goes first: %+v", lied, m.book.Entry("nar "+liar.url))
		}
		if _, n := good.gave("nar"); n == 0 || m.book.Usable("nar "+good.url) != nil {
			t.Errorf("the good server gave %d nars, %v", n, m.book.Usable("nar "+good.url))
		}
		m.settled()
	}
}
