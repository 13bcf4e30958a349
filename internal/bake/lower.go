package bake

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// oomScore is what a process that bakes has more than its server where the system
// looks for whom to kill for want of memory (proc_pid_oom_score_adj(5)).
const oomScore = 500

// bestEffortLast is the last of the priorities for the disk that are served in
// turn (ioprio_set(2)): the class that SCHED_IDLE would else have may wait for ever.
const bestEffortLast = 2<<13 | 7

// lower gives a process that was just started the lowest priority, before it is
// through its start, which takes as long as some hundred answers, and lets it die
// first. A thread that is woken takes the processor from one of SCHED_IDLE at once,
// where one that is merely nice keeps it for its slice, some ms.
func lower(pid int) error {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	score := os.WriteFile(filepath.Join(proc, "oom_score_adj"), strconv.AppendInt(nil, oomScore, 10), 0)
	err := errors.Join(score, lowerThreads(filepath.Join(proc, "task")))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil // it has ended, and whoever asks it will see
	}
	return err
}

func lowerThreads(dir string) error {
	// Threads inherit what the one has that starts them. Once a pass has found
	// nothing to change, all have it, and so will all others.
	for changed := true; changed; {
		changed = false
		threads, err := os.ReadDir(dir)
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

// lowerThread reports whether there was anything to do. It does without
// sched_setattr(2), whose policy a filter of system calls cannot see: RestrictRealtime=
// of systemd refuses it altogether.
func lowerThread(tid int) (did bool, err error) {
	policy, err := call("sched_getscheduler", unix.SYS_SCHED_GETSCHEDULER, uintptr(tid), 0, 0)
	if err != nil || policy == unix.SCHED_IDLE {
		return false, err
	}
	const whoThread = 1 // IOPRIO_WHO_PROCESS
	if _, err := call("ioprio_set", unix.SYS_IOPRIO_SET, whoThread, uintptr(tid), bestEffortLast); err != nil {
		return false, err
	}
	var param int32 // struct sched_param
	_, err = call("sched_setscheduler", unix.SYS_SCHED_SETSCHEDULER, uintptr(tid), unix.SCHED_IDLE, uintptr(unsafe.Pointer(&param)))
	return true, err
}

// call calls the system. a3 may be the address of something that outlives it.
//
//go:uintptrescapes
func call(name string, trap, a1, a2, a3 uintptr) (uintptr, error) {
	got, _, errno := unix.Syscall(trap, a1, a2, a3)
	if errno != 0 {
		return 0, os.NewSyscallError(name, errno)
	}
	return got, nil
}

// giveWay lets a thread run that waits for this one's processor. One of SCHED_IDLE
// has to: Linux owes it what others of its priority have had, say that of another
// bake, and lets it go on until then, at worst to the next tick (4 ms at 250 Hz),
// also when a thread of the server was woken meanwhile. Yielding forfeits that.
func giveWay() {
	_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // it cannot fail
}
