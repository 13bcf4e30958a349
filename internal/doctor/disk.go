package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Least free space, in bytes: below it something is bound to fail soon.
const (
	leastState = 64 << 20
	leastStore = 1 << 30
)

// checkState looks at the folder that substitute keeps its narinfo cache in.
func (e *examination) checkState() {
	const check = "state folder"
	dir := e.path(e.o.State)
	fi, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		e.add(check, Note, e.o.State+" does not exist yet; it is made at first use if the daemon's user may",
			"sudo install -d "+e.ownerFlag()+e.o.State)
		return
	}
	if err != nil || !fi.IsDir() {
		e.add(check, Bad, fmt.Sprintf("%s is no folder that can be read", e.o.State), "sudo install -d "+e.ownerFlag()+e.o.State)
		return
	}
	// The daemon may run as another user than doctor does.
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && e.daemon.pid != 0 && e.daemon.uid > 0 && int(st.Uid) != e.daemon.uid && fi.Mode()&0o002 == 0 {
		e.add(check, Bad, fmt.Sprintf("%s belongs to user %d, but guix-daemon runs as user %d", e.o.State, st.Uid, e.daemon.uid),
			fmt.Sprintf("sudo chown -R %d %s", e.daemon.uid, e.o.State))
		return
	}
	f, err := os.CreateTemp(dir, ".tmp-doctor-*")
	if err != nil {
		e.add(check, Note, fmt.Sprintf("%s: you cannot write there: %v", e.o.State, err), "run doctor as root or as the daemon's user")
		return
	}
	f.Close()
	if err := os.Remove(f.Name()); err != nil {
		e.add(check, Bad, err.Error(), "")
		return
	}
	e.checkSpace(check, e.o.State, leastState, freeGuix)
}

// ownerFlag returns the option of install(1) that gives a folder to the
// daemon's user.
func (e *examination) ownerFlag() string {
	if e.daemon.uid > 0 {
		return fmt.Sprintf("-o %d ", e.daemon.uid)
	}
	return ""
}

func (e *examination) checkStore() {
	const check = "store"
	if _, err := os.Stat(e.path(e.o.Store)); err != nil {
		e.add(check, Bad, err.Error(), "install Guix, whose daemon makes the store")
		return
	}
	e.checkSpace(check, e.o.Store, leastStore, freeGuix)
}

// freeGuix frees what no profile of Guix needs.
const freeGuix = "free some: guix gc -F 10G"

// checkSpace adds the verdict on the disk that dir is on.
func (e *examination) checkSpace(check, dir string, least uint64, advice string) {
	var st unix.Statfs_t
	if err := unix.Statfs(e.path(dir), &st); err != nil {
		e.add(check, Note, fmt.Sprintf("%s: free space unknown: %v", dir, err), "")
		return
	}
	free := st.Bavail * uint64(st.Bsize)
	text := fmt.Sprintf("%s has %.1f GiB free", dir, float64(free)/(1<<30))
	switch {
	case free < least:
		e.add(check, Bad, text, advice)
	case st.Files > 0 && st.Ffree < 1000:
		e.add(check, Bad, fmt.Sprintf("%s has room for %d more files only", dir, st.Ffree), advice)
	default:
		e.add(check, OK, text, "")
	}
}
