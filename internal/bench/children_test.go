package bench

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestChildren(t *testing.T) {
	memory := watchMemory(os.Getpid())
	cmd := exec.Command("sh", "-c", "i=0; while :; do i=$((i+1)); done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	own, all := time.Duration(0), time.Duration(0)
	for range 10_000 { // of the child, before it is waited for
		var errs [2]error
		own, errs[0] = cpu(os.Getpid())
		all, errs[1] = cpuWithChildren(os.Getpid())
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
		if all >= own+50*time.Millisecond {
			break
		}
		<-time.After(time.Millisecond)
	}
	if all < own+50*time.Millisecond {
		t.Errorf("%v with the child, %v alone", all, own)
	}
	pids, err := childrenOf(os.Getpid())
	if err != nil || len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Errorf("children %v, not %d, %v", pids, cmd.Process.Pid, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	least, err := peak(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if all, err := memory(); err != nil || all < least+100<<10 {
		t.Errorf("%d bytes with the child, %d alone, %v", all, least, err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it ended by itself")
	}
}
