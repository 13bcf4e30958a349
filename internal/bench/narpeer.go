package bench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	gonix "github.com/nix-community/go-nix/pkg/nar"
	"golang.org/x/sys/unix"
)

// goNixDump writes the archive of a tree by go-nix.
func goNixDump(w io.Writer, path string) error { return gonix.DumpPath(w, path) }

// goNixRestore makes a tree from what go-nix reads, as whoever uses it would,
// with the metadata that store items have.
func goNixRestore(r io.Reader, dst string) (err error) {
	nr, err := gonix.NewReader(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nr.Close()) }()
	var folders []string
	for {
		h, err := nr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dst, h.Path)
		switch h.Type {
		case gonix.TypeDirectory:
			folders = append(folders, path)
			err = os.Mkdir(path, 0o755)
		case gonix.TypeSymlink:
			err = errors.Join(os.Symlink(h.LinkTarget, path), setTime(path))
		case gonix.TypeRegular:
			err = goNixFile(nr, path, h)
		default:
			err = fmt.Errorf("type %q", h.Type)
		}
		if err != nil {
			return err
		}
	}
	for i := len(folders) - 1; i >= 0; i-- {
		if err := errors.Join(os.Chmod(folders[i], 0o555), setTime(folders[i])); err != nil {
			return err
		}
	}
	return nil
}

func goNixFile(r io.Reader, path string, h *gonix.Header) error {
	perm := os.FileMode(0o444)
	if h.Executable {
		perm = 0o555
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chmod(perm), f.Close(), setTime(path))
}

func setTime(path string) error {
	t := unix.NsecToTimespec(time.Second.Nanoseconds())
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}
