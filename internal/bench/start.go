package bench

import (
	"context"
	"fmt"
	"time"
)

var milliseconds = unit{name: "ms", scale: 1000}

// startGroup measures what guix-daemon waits for before anything is done: it
// starts a substituter for each query, and for each item that it builds
// without.
func startGroup(ctx context.Context, o Options) ([]Table, error) {
	s, err := newSite(ctx, o)
	if err != nil {
		return nil, err
	}
	t, err := s.starts(ctx)
	return t, closing(err, s.close)
}

func (s *site) starts(ctx context.Context) ([]Table, error) {
	const question = "have /gnu/store/dddddddddddddddddddddddddddddddd-nothing \n"
	var us, them usages
	var enter series     // a process in a machine that does nothing
	runs := 5 * s.o.Runs // each is short
	for range runs {
		for _, side := range []struct {
			by substituter
			to *usages
		}{{ours(s.client), &us}, {stock(s.client), &them}} {
			u, _, err := side.by.ask(ctx, "--query", options(""), question, func(line string) bool { return line == "" })
			if err != nil {
				return nil, err
			}
			side.to.add(u)
		}
		begin := time.Now()
		if _, err := s.client.Run(ctx, "true"); err != nil {
			return nil, err
		}
		enter = append(enter, time.Since(begin).Seconds())
	}
	t := Table{
		Title: "Starting",
		Note: fmt.Sprintf("From the start of the substituter to its answer to a query, with no servers to ask. As in all figures here, entering the machine is part of it: "+
			"`true` takes %s. Medians of %d.", milliseconds.cell(enter), runs),
		Head: compareHead,
	}
	t.compare("wall", milliseconds, us.wall, them.wall)
	t.compare("CPU", milliseconds, us.cpu, them.cpu)
	t.compare("peak memory", mebibytes, us.peak, them.peak)
	return []Table{t}, nil
}
