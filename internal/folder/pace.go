package folder

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Pace keeps work that nobody waits for, and that grows with what there is, to a
// part of the time. It is used by one goroutine. A nil Pace does not rest.
type Pace struct {
	part  time.Duration
	begun time.Time
}

// NewPace returns a Pace of work that takes one part of so many of the time, from
// now on.
func NewPace(part int) *Pace { return &Pace{time.Duration(part), time.Now()} }

// restAfter is how long is worked without a rest.
const restAfter = 5 * time.Millisecond

// Rest waits as long as the work since the last rest asks for. The error is that
// of ctx.
func (p *Pace) Rest(ctx context.Context) error {
	if p == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	worked := time.Since(p.begun)
	if worked < restAfter {
		return nil
	}
	rest := time.NewTimer(worked * (p.part - 1))
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.begun = time.Now()
	return nil
}

// Begin notes in the file of a lock that its holder begins now, by the clock of
// its file system, and returns that time: what was last written before has been
// left by others.
func Begin(lock *os.File) (time.Time, error) {
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, lock.Name(), now, 0); err != nil {
		return time.Time{}, &os.PathError{Op: "utimensat", Path: lock.Name(), Err: err}
	}
	fi, err := lock.Stat()
	if err != nil {
		return time.Time{}, err
	}
	return fi.ModTime(), nil
}

// Left reports whether a file that was last written at a time was left by
// others: before a process began, or so long after it that a clock was wrong.
func Left(begun, last time.Time) bool {
	const future = 24 * time.Hour
	latest := begun
	if now := time.Now(); now.After(begun) {
		latest = now
	}
	return last.Before(begun) || last.After(latest.Add(future))
}
