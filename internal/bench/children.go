package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// childrenOf returns the processes that a process has started and not waited for.
func childrenOf(pid int) (pids []int, err error) {
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, field := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, err
			}
			pids = append(pids, child)
		}
	}
	return pids, nil
}

// gone reports whether a file of /proc could not be read since the process or
// thread has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// cpuWithChildren is cpu, with that of children that have not ended.
func cpuWithChildren(pid int) (time.Duration, error) {
	pids, err := childrenOf(pid)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, child := range pids {
		n, err := cpu(child)
		if err != nil && !gone(err) {
			return 0, err
		}
		sum += n
	}
	own, err := cpu(pid) // last: a child that has ended meanwhile counts twice, not never
	return sum + own, err
}

// watchMemory looks at a process and its children every 10 ms. stop ends that, and
// returns the greatest resident memory of the process and, together, of the
// children that it had at one time.
func watchMemory(pid int) (stop func() (int64, error)) {
	quit, done := make(chan struct{}), make(chan int64)
	go func() {
		most := int64(0)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			now := int64(0)
			pids, _ := childrenOf(pid) // that of the process itself says if it has ended
			for _, child := range pids {
				n, err := peak(child)
				if err == nil {
					now += n
				}
			}
			most = max(most, now)
			select {
			case <-tick.C:
			case <-quit:
				done <- most
				return
			}
		}
	}()
	return func() (int64, error) {
		close(quit)
		most := <-done
		own, err := peak(pid)
		return own + most, err
	}
}
