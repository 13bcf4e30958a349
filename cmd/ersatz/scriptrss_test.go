package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// maxrss runs a command of this program that must succeed, and must at no time
// take more memory than that, in MiB: maxrss 64 ersatz export …. The race
// detector takes some three times as much. Output is for stdout and stderr.
func maxrss(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: maxrss MIB PROGRAM ARG...")
	}
	limit, err := strconv.ParseInt(args[0], 10, 32)
	ts.Check(err)
	limit <<= 20
	if raceEnabled {
		limit *= 3
	}
	cmd := &exec.Cmd{Args: args[1:], Dir: ts.MkAbs("."), Stdout: ts.Stdout(), Stderr: ts.Stderr()}
	dirs := filepath.SplitList(ts.Getenv("PATH"))
	i := slices.IndexFunc(dirs, func(dir string) bool {
		cmd.Path, err = exec.LookPath(filepath.Join(dir, args[1]))
		return err == nil
	})
	if i < 0 {
		ts.Fatalf("%s is not in the PATH", args[1])
	}
	for _, name := range strings.Fields("PATH HOME TMPDIR XDG_STATE_HOME ERSATZ_CONFIG ERSATZ_ACL") {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	ts.Check(cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var peak int64
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case err := <-done:
			ts.Check(err)
			running = false
		case <-tick.C:
			peak = max(peak, peakOf(cmd.Process.Pid))
		}
	}
	if peak == 0 || peak > limit {
		ts.Fatalf("peak memory %d MiB, limit %d", peak>>20, limit>>20)
	}
	ts.Logf("peak memory %d MiB", peak>>20)
}

// peakOf returns the greatest resident memory that a process has had so far, in
// bytes; 0 if it is gone. What wait(2) tells has that of its parent in it.
func peakOf(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "\nVmHWM:")
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	kib, err := strconv.ParseInt(number, 10, 32)
	if err != nil {
		return 0
	}
	return kib << 10
}
