package bench

import (
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// side is one of the things that are compared.
type side struct {
	name string
	// once does the work and says what it took. It is called by one goroutine.
	once func(context.Context) (usage, error)
	// usages are filled by turns.
	usages
}

// turns does the work of each side once, for caches and the like, and then
// o.Runs times, in turns, so that whatever else the machine does falls on all
// of them.
func turns(ctx context.Context, o Options, sides ...*side) error {
	for n := range o.Runs + 1 {
		for _, s := range sides {
			if err := ctx.Err(); err != nil {
				return err
			}
			u, err := s.once(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			o.Log.DebugContext(ctx, "measured", slog.String("side", s.name), slog.Int("run", n),
				slog.Duration("wall", u.wall), slog.Duration("cpu", u.cpu), slog.Float64("rate", u.rate))
			if n > 0 {
				s.add(u)
			}
		}
	}
	return nil
}

// inProcess returns what a piece of work takes in this process: the time, and
// the processor time of all threads. Nothing else may run in it meanwhile.
func inProcess(work func() error) (usage, error) {
	runtime.GC() // the garbage of what was before is not part of it
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		return usage{}, err
	}
	begin := time.Now()
	if err := work(); err != nil {
		return usage{}, err
	}
	u := usage{wall: time.Since(begin)}
	err := unix.Getrusage(unix.RUSAGE_SELF, &after)
	u.cpu = busy(after) - busy(before)
	return u, err
}

func busy(r unix.Rusage) time.Duration {
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// wholeProcess runs a program from its start to its end, and returns what that
// took: user and system time are those of the process and of its children that
// it has waited for. Its memory is not known: what Linux says of a process that
// has ended has the memory of this one in it, which it was before it was a
// program of its own.
func wholeProcess(cmd *exec.Cmd) (usage, error) {
	begin := time.Now()
	err := cmd.Run()
	u := usage{wall: time.Since(begin)}
	if err != nil {
		return usage{}, fmt.Errorf("%s: %w", cmd.Path, err)
	}
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return u, nil
}

// rateOf is what was measured by a program that says how much it has done per
// second.
func rateOf(perSecond float64) usage { return usage{rate: perSecond} }

// perSecond returns the rate of n bytes, items or requests by the clock.
func (u usages) perSecond(n float64) series { return rates(n, u.wall) }

// perCPUSecond returns the rate of n bytes, items or requests by processor
// time.
func (u usages) perCPUSecond(n float64) series { return rates(n, u.cpu) }

func rates(n float64, s series) series {
	r := make(series, 0, len(s))
	for _, seconds := range s {
		r = append(r, n/seconds)
	}
	return r
}
