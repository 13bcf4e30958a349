package transfer

import (
	"context"
	"sync"
	"testing"

	"ersatz/internal/node"
	"ersatz/internal/upstream"
)

// What a server nearby has comes from there, also what is fetched ahead. It is
// asked once for each item, and not for what is kept, what others ask for, and
// where its nars are not used.
func TestNearServer(t *testing.T) {
	for _, c := range []struct {
		policy Policy
		want   int // items that it is asked for
	}{{Mixed, 3}, {HTTPOnly, 0}} {
		things := chain(t, 3)
		far, near := newOrigin(t, things...), newOrigin(t, things...)
		sv, err := upstream.ParsePeer(near.url)
		must(t, err)
		m := newMachine(t)
		m.o.Policy = c.policy
		var mu sync.Mutex
		asked := map[string]int{}
		m.o.Join = func(_ context.Context, w node.Want) node.Want {
			mu.Lock()
			defer mu.Unlock()
			asked[w.Path.Base()]++
			for _, x := range things {
				if x.fields.StorePath == w.Path {
					b := *w.Choice.Builds[0]
					b.Join([]upstream.Answer{{Server: sv, Text: x.text(t)}})
					w.Choice.Builds = []*upstream.Build{&b}
				}
			}
			return w
		}
		m.start()
		other := things[0].want(t, far.url)
		other.Kept = true
		if _, err := m.get(other); err == nil {
			t.Error("what is not kept is fetched for another machine")
		}
		var wants []node.Want
		for _, x := range things {
			wants = append(wants, x.want(t, far.url))
		}
		m.trans.Ahead(wants)
		m.gets(things[2], far.url)
		for _, x := range things { // those before were fetched ahead, or are being
			m.gets(x, far.url)
			m.settled()
			m.keeps(x)
			m.gets(x, far.url)
		}
		_, gave := near.gave("nar")
		_, rest := far.gave("nar")
		if gave != c.want || rest != len(things)-c.want {
			t.Errorf("%s: %d nars from nearby and %d from afar", c.policy, gave, rest)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(asked) != c.want {
			t.Errorf("%s: asked for %v", c.policy, asked)
		}
		for base, n := range asked {
			if n != 1 {
				t.Errorf("asked %d times for %s", n, base)
			}
		}
	}
}
