package durable

import "sync/atomic"

// fault is the package's one variable: the hook that tests set, of this
// package and of those above it, which hand no file system down.
var fault atomic.Pointer[func(op, path string) error]

// SetFaultForTest makes fn decide, before each operation, whether it fails,
// until restore is called. It is for tests that do not run in parallel. An
// operation is "create", "write", "chmod", "sync", "close", "rename", "link",
// "remove", "mkdir" or "syncdir"; path is the final name of the file written,
// the new name of a rename or link, or the folder made or synced. A fault
// stands for the call that it precedes: that call is not made.
func SetFaultForTest(fn func(op, path string) error) (restore func()) {
	old := fault.Swap(&fn)
	return func() { fault.Store(old) }
}

func injected(op, path string) error {
	if fn := fault.Load(); fn != nil {
		return (*fn)(op, path)
	}
	return nil
}
