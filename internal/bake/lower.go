package bake

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// oomScore is what a process that bakes has more than its server where the system
// looks for whom to kill for want of memory (proc_pid_oom_score_adj(5)).
const oomScore = 500

// bestEffortLast is the last of the priorities for the disk that are served in
// turn (ioprio_set(2)): the class that SCHED_IDLE would else have may wait for ever.
const bestEffortLast = 2<<13 | 7

// lower gives this process the lowest priority, and lets it die first. A thread
// that is woken takes the processor from one of SCHED_IDLE at once, where one that
// is merely nice keeps it for its slice, some ms.
func lower() error {
	score := os.WriteFile("/proc/self/oom_score_adj", strconv.AppendInt(nil, oomScore, 10), 0)
	return errors.Join(score, lowerThreads())
}

func lowerThreads() error {
	// Threads inherit what the one has that starts them. Once a pass has found
	// nothing to change, all have it, and so will all others.
	for changed := true; changed; {
		changed = false
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range threads {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			did, err := lowerThread(tid)
			if errors.Is(err, unix.ESRCH) {
				continue // it has ended
			}
			if err != nil {
				return err
			}
			changed = changed || did
		}
	}
	return nil
}

// lowerThread reports whether there was anything to do.
func lowerThread(tid int) (did bool, err error) {
	now, err := unix.SchedGetAttr(tid, 0)
	if err != nil || now.Policy == unix.SCHED_IDLE {
		return false, err
	}
	const whoThread = 1 // IOPRIO_WHO_PROCESS
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoThread, uintptr(tid), bestEffortLast); errno != 0 {
		return false, errno
	}
	return true, unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
}
