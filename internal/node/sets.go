package node

import (
	"context"
	"time"
)

const (
	// setGap ends a set: clients ask for the narinfos of what they may want in
	// one go.
	setGap = time.Second

	// maxSet bounds a set.
	maxSet = 4096
)

// sets gathers the items whose narinfos stock clients ask for, one after the
// other, into sets of what may be asked for soon.
type sets struct {
	in    chan Want
	ahead func([]Want)
}

func newSets(ahead func([]Want)) *sets { return &sets{make(chan Want, 256), ahead} }

// add adds an item to the set that is being gathered. When many come at once,
// some are left out.
func (s *sets) add(w Want) {
	select {
	case s.in <- w:
	default:
	}
}

// run gathers until ctx ends.
func (s *sets) run(ctx context.Context) {
	var set []Want
	timer := time.NewTimer(setGap)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-s.in:
			timer.Reset(setGap)
			if set = append(set, w); len(set) < maxSet {
				continue
			}
		case <-timer.C:
		}
		if len(set) > 1 { // one alone is being asked for
			s.ahead(set)
		}
		set = nil
	}
}
