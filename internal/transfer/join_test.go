package transfer

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/internal/node"
)

// TestJoin: queries without a pause of a second are one; they are bounded
// together.
func TestJoin(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	trans := &Transfers{o: Options{Now: func() time.Time { return now }}, ctx: t.Context()}
	wants := make([]node.Want, 5)
	for k := range wants {
		wants[k] = newThing(t, byte(k+1), 100).want(t, "http://server.example")
	}
	for _, step := range []struct {
		pause time.Duration
		wants []node.Want
		sets  []int // how many items each has
	}{
		{0, nil, nil},
		{0, wants[:1], []int{1}},
		{joinFor - 1, wants[1:3], []int{3}},
		{joinFor - 1, wants[:2], []int{3}}, // known already
		{joinFor, wants[3:], []int{3, 2}},
		{joinFor / 2, nil, []int{3, 2}},
		{joinFor / 2, wants[:1], []int{3, 2, 1}},
		{0, slices.Repeat(wants, maxWants), []int{3, 2, 1, 5}},
	} {
		now = now.Add(step.pause)
		trans.Ahead(step.wants)
		var sets []int
		for _, s := range trans.ahead.sets {
			sets = append(sets, len(s.wants))
		}
		if !slices.Equal(sets, step.sets) {
			t.Errorf("after %v, %d items more: sets of %d, not of %d", step.pause, len(step.wants), sets, step.sets)
		}
	}
}

// TestAskedBefore: a set with an item that somebody has just asked for begins at
// once; one that comes later waits until somebody asks.
func TestAskedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y, z := newThing(t, 1, 100, "none"), newThing(t, 2, 100, "none"), newThing(t, 3, 100, "none")
		s := newServers(x, y, z)
		trans, _, _ := bubbled(t, s, Options{})
		set := func(things ...*thing) (wants []node.Want) {
			for _, thing := range things {
				wants = append(wants, thing.want(t, "http://server.example"))
			}
			return wants
		}
		fetched := func(things ...*thing) {
			t.Helper()
			after(time.Minute / 2)
			var want []string
			for _, thing := range things {
				want = append(want, thing.fields.StorePath.Base())
			}
			if got, _, _ := s.did(); !slices.Equal(got, want) {
				t.Errorf("%q were fetched, not %q", got, want)
			}
		}
		gotten(t, trans, x)
		trans.Ahead(set(x, y))
		fetched(x, y)
		trans.Ahead(set(x, z))
		fetched(x, y)
		gotten(t, trans, x)
		fetched(x, y, z)
	})
}
