package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// process waits for the processes of this script that run a command of ersatz, or
// until there are none, or kills them: process await|gone|kill COMMAND.
func process(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: process await|gone|kill COMMAND")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		pids, err := processes(ts.MkAbs("."), args[1])
		ts.Check(err)
		switch {
		case args[0] == "kill":
			for _, pid := range pids {
				if err := syscall.Kill(pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
					ts.Check(err)
				}
			}
			return
		case (args[0] == "await") == (len(pids) > 0):
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			ts.Fatalf("processes %v", pids)
		}
	}
}

// processes returns those in a folder whose first argument is a command.
func processes(dir, command string) (pids []int, err error) {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		line, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		cwd, err := os.Readlink(filepath.Join(filepath.Dir(name), "cwd"))
		args := strings.Split(string(line), "\x00")
		if err != nil || cwd != dir || len(args) < 2 || args[1] != command {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
