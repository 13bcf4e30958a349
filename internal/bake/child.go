package bake

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// Child bakes for a Cache whose Options.Child has started this process, until in
// ends, which it does when the server does. It then returns at once, whatever is
// under way, for the process to end: nothing that it has written has a name yet.
// A little job is done before in is read on: it takes some 100 ms at most, at level
// 19, if the item is what the store's database says.
func Child(in io.Reader, out io.Writer) error {
	w := childWorker{out: out}
	var under <-chan error // from the job that is under way, at its end; nil: none is
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxJob+1)
	for lines.Scan() {
		j, err := parseJob(lines.Bytes())
		if err == nil && under != nil {
			err = <-under
			under = nil
		}
		if err != nil {
			return err
		}
		if j.Size <= little {
			if err := w.answer(j); err != nil {
				return err
			}
			continue
		}
		done := make(chan error, 1)
		go func() { done <- w.answer(j) }()
		under = done
	}
	return lines.Err()
}

// childWorker does one job after another.
type childWorker struct {
	tools
	out  io.Writer
	used time.Duration // processor time at the last answer
}

// answer does a job. The error is that of writing the answer.
func (w *childWorker) answer(j job) error {
	var a reply
	if m, err := w.do(j); err != nil {
		a.Fault = newFault(err)
	} else {
		a.Made = &m
	}
	now := processorTime()
	a.CPU, w.used = now-w.used, now
	line, err := marshal(a)
	if err != nil {
		return err
	}
	_, err = w.out.Write(line)
	return err
}

// do is make with the files that the job names.
func (w *childWorker) do(j job) (m made, err error) {
	var files []io.Writer
	open := func(name fileName) (*os.File, error) { return os.OpenFile(string(name), os.O_WRONLY, 0) }
	tree, err := open(j.Tree)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	for _, x := range j.Forms {
		f, err := open(x.File)
		if err != nil {
			return m, err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		files = append(files, f)
	}
	return w.make(context.Background(), j, tree, files)
}

// processorTime returns how much this process has used, user and system.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
