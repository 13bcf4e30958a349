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
func Child(in io.Reader, out io.Writer) error {
	jobs := make(chan job)
	ended := make(chan error, 1)
	go func() { ended <- answerAll(jobs, out) }()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxJob+1)
	for lines.Scan() {
		j, err := parseJob(lines.Bytes())
		if err != nil {
			return err
		}
		select {
		case jobs <- j:
		case err := <-ended:
			return err
		}
	}
	return lines.Err()
}

// answerAll does one job after another, until an answer cannot be written.
func answerAll(jobs <-chan job, out io.Writer) error {
	last := time.Duration(0)
	for j := range jobs {
		var a reply
		if m, err := j.do(); err != nil {
			a.Fault = newFault(err)
		} else {
			a.Made = &m
		}
		now := processorTime()
		a.CPU, last = now-last, now
		line, err := marshal(a)
		if err != nil {
			return err
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	return nil
}

// do is make with the files that the job names.
func (j job) do() (m made, err error) {
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
	return j.make(context.Background(), tree, files)
}

// processorTime returns how much this process has used, user and system.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
