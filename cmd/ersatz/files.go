package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"ersatz/internal/keep"
)

// open opens a file, or standard input for "-". The length is -1 if it is not
// known.
func (a *app) open(name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		return io.NopCloser(a.stdin), -1, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil && fi.IsDir() {
		err = fmt.Errorf("%s is a folder", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	if !fi.Mode().IsRegular() {
		return f, -1, nil
	}
	return f, fi.Size(), nil
}

// checkOutput refuses to give a file a name that something else has, before the
// work is done: a folder, or a device such as /dev/null, which would be gone.
func checkOutput(name string) error {
	fi, err := os.Stat(name)
	if err == nil && !fi.Mode().IsRegular() {
		return usageError(fmt.Errorf("%s is there, and is no regular file", name))
	}
	return nil
}

// unlessPermitted adds to an error what to do if it is for want of permission.
func unlessPermitted(err error, advice string) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w (%s)", err, advice)
	}
	return err
}

// notState refuses the folder of a node for what others write.
func notState(dir string) error {
	if keep.IsState(dir) {
		return fmt.Errorf("%s is the state folder of a node; another one is needed", dir)
	}
	return nil
}

var errTooLarge = errors.New("too large")

// readAll reads a file, or standard input for "-", of at most max bytes.
func (a *app) readAll(name string, max int64) ([]byte, error) {
	f, _, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", name, errTooLarge, max)
	}
	return b, nil
}

// readFile reads a small file, such as a key.
func readFile(name string) ([]byte, error) {
	return (&app{}).readAll(name, 1<<20)
}

// markDirname makes the shell offer folders for a flag.
func markDirname(cmd *cobra.Command, flag string) {
	if err := cmd.MarkFlagDirname(flag); err != nil {
		panic(err) // our own misspelling
	}
}

// markFilename makes the shell offer files for a flag.
func markFilename(cmd *cobra.Command, flag string, extensions ...string) {
	if err := cmd.MarkFlagFilename(flag, extensions...); err != nil {
		panic(err) // our own misspelling
	}
}
