package fetch

import (
	"math/rand/v2"
	"slices"
)

// place is a want of a job.
type place struct {
	j *job
	i int
}

// scatter takes wants from where far sources have left off, or, if what follows
// there is not to be had, from a place of chance. take takes what may be had of
// a job from a want on.
func (r *round) scatter(may func(j *job, i int) bool, take func(j *job, from int) []int) (*job, []int) {
	for _, j := range r.m.jobs {
		if len(j.refs) <= urgent {
			if index := take(j, 0); len(index) > 0 {
				return j, index
			}
		}
	}
	p := r.m.place
	at := slices.Index(r.m.jobs, p.j)
	if at >= 0 && p.i == len(p.j.refs) && at+1 < len(r.m.jobs) {
		p = place{r.m.jobs[at+1], 0}
	}
	if at < 0 || !p.open(may) {
		if p = r.middle(may); p.j == nil {
			return nil, nil
		}
	}
	index := take(p.j, p.i)
	if n := len(index); n > 0 {
		r.m.place = place{p.j, index[n-1] + 1}
	}
	return p.j, index
}

// move has the next be taken elsewhere if another has by now what came from a far
// source last: it is at work in the same place.
func (m *Mix) move() {
	if slices.ContainsFunc(m.sources, func(s *source) bool { return s.Near && s.Has != nil && s.Has(m.took) }) {
		m.place = place{}
	}
}

func (p place) open(may func(j *job, i int) bool) bool {
	_, queued := slices.BinarySearch(p.j.queue, p.i)
	return queued && may(p.j, p.i)
}

// middle returns, of some places of chance, the one that is farthest from what
// is taken: others are likely to be at work where what they have ends. It
// returns no job if nothing is to be had.
func (r *round) middle(may func(j *job, i int) bool) (best place) {
	var open []place
	var run []int // for each: where those begin that lie before it without a gap
	for _, j := range r.m.jobs {
		for _, i := range j.queue {
			if !may(j, i) {
				continue
			}
			first := len(open)
			if n := first - 1; n >= 0 && open[n].before(place{j, i}) {
				first = run[n]
			}
			open, run = append(open, place{j, i}), append(run, first)
		}
	}
	margin := -1
	for range min(8, len(open)) {
		k := rand.IntN(len(open))
		end := k + 1
		for end < len(open) && run[end] == run[k] {
			end++
		}
		if n := min(k-run[k], end-k); n > margin {
			best, margin = open[k], n
		}
	}
	return best
}

// before reports whether q is the next want after p, if its job is the next.
func (p place) before(q place) bool {
	if p.j == q.j {
		return p.i+1 == q.i
	}
	return p.i+1 == len(p.j.refs) && q.i == 0
}
