package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"ersatz/internal/durable"
)

// account is who a command goes on as.
type account struct {
	name     string
	uid, gid int
}

// lookupAccount finds a user by name. "" is whoever runs the command.
func lookupAccount(name string) (account, error) {
	if name == "" {
		return account{"this user", os.Geteuid(), os.Getegid()}, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, usageError(fmt.Errorf("--user: %w", err))
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return account{}, fmt.Errorf("user %s: %w", name, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return account{}, fmt.Errorf("user %s: %w", name, err)
	}
	return account{name, uid, gid}, nil
}

// become gives up the privileges of root for those of the account, without
// other groups, in all threads and for good.
func (a account) become() error {
	if os.Geteuid() == a.uid {
		return nil
	}
	err := syscall.Setgroups(nil)
	if err == nil {
		err = syscall.Setgid(a.gid)
	}
	if err == nil {
		err = syscall.Setuid(a.uid)
	}
	if err != nil {
		return fmt.Errorf("changing to user %s: %w", a.name, err)
	}
	return nil
}

// own makes a folder for the account, or gives it one that is root's and
// empty. Others stay whose they are, and so does what a link leads to: the
// account may have made the link, to be given what is root's.
func (a account) own(dir string) error {
	empty, err := isEmpty(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := durable.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	case err != nil:
		return err
	case !empty:
		return nil
	}
	if os.Geteuid() != 0 || a.uid == 0 {
		return nil
	}
	f, err := os.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Uid != 0 {
		return err
	}
	if names, err := f.Readdirnames(1); len(names) > 0 || !errors.Is(err, io.EOF) {
		return err // filled meanwhile
	}
	return f.Chown(a.uid, a.gid)
}

// isEmpty reports whether there is nothing in a folder, of which it reads one name:
// there may be a million.
func isEmpty(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close() // it was only read
	_, err = d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// canWrite says in an operator's words what keeps the account, which the
// process runs as, from using a folder.
func (a account) canWrite(dir string) error {
	err := unix.Access(dir, unix.W_OK|unix.X_OK)
	if err == nil {
		return nil
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return fmt.Errorf("folder %s: %w", dir, err)
	}
	return fmt.Errorf("folder %s belongs to user %d and cannot be written by %s: give it away (chown -R) or choose another one: %w", dir, st.Uid, a.name, err)
}
