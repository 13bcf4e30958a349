package nar

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"
)

// Whatever the umask, the metadata is a store item's; readTree checks it.
func TestRestoreMetadata(t *testing.T) {
	want := smallItem.archive()
	for _, mask := range []int{0, 0o022, 0o077, 0o277, 0o777} {
		t.Run(fmt.Sprintf("umask %04o", mask), func(t *testing.T) {
			root, path := tempRoot(t)
			defer syscall.Umask(syscall.Umask(mask))
			if _, err := Restore(bytes.NewReader(want), root, "x", RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			if got := readTree(t, filepath.Join(path, "x")).archive(); !bytes.Equal(got, want) {
				t.Fatal("another tree")
			}
		})
	}
}

// A link's own time is set, not that of what it leads to.
func TestRestoreLeavesLinkTargets(t *testing.T) {
	root, path := tempRoot(t)
	outside := filepath.Join(path, "outside")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1e9, 0)
	if err := os.Chtimes(outside, when, when); err != nil {
		t.Fatal(err)
	}
	archive := build(magic, dir(entry("l", link(outside)), entry("m", link("../outside"))))
	if _, err := Restore(bytes.NewReader(archive), root, "x", RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	readTree(t, filepath.Join(path, "x"))
	if err := RemoveAll(root, "x"); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(outside)
	if err != nil || !fi.ModTime().Equal(when) || fi.Mode() != 0o600 {
		t.Fatalf("the target was touched: %v, %v", fi, err)
	}
}

func TestRestoreOverExisting(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"file":          func(p string) error { return os.WriteFile(p, []byte("keep"), 0o644) },
		"folder":        func(p string) error { return os.Mkdir(p, 0o755) },
		"link":          func(p string) error { return os.Symlink("other", p) },
		"dangling link": func(p string) error { return os.Symlink("nothing", p) },
	} {
		t.Run(name, func(t *testing.T) {
			root, path := tempRoot(t)
			if err := os.Mkdir(filepath.Join(path, "other"), 0o755); err != nil {
				t.Fatal(err)
			}
			x := filepath.Join(path, "x")
			if err := make(x); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(x)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []node{{content: "new"}, {mode: fs.ModeDir}, {mode: fs.ModeSymlink, content: "new"}} {
				_, err := Restore(bytes.NewReader(n.archive()), root, "x", RestoreOptions{})
				if !errors.Is(err, fs.ErrExist) {
					t.Errorf("%v: %v", n.mode, err)
				}
			}
			after, err := os.Lstat(x)
			if err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
				t.Errorf("%v, %v", after, err)
			}
			wantEmpty(t, filepath.Join(path, "other"))
			wantEmpty(t, path, "other", "x")
		})
	}
}

func TestNames(t *testing.T) {
	root, path := tempRoot(t)
	for _, name := range []string{"", ".", "..", "a/b", "../x", "/x", "a\x00", strings.Repeat("x", MaxName+1)} {
		if _, err := Restore(bytes.NewReader(smallItem.archive()), root, name, RestoreOptions{}); err == nil {
			t.Errorf("Restore as %q: no error", name)
		}
		if err := RemoveAll(root, name); err == nil {
			t.Errorf("RemoveAll of %q: no error", name)
		}
	}
	wantEmpty(t, path)
}

// The stream breaks at any place: the error is the stream's, nothing is left.
func TestRestoreReadError(t *testing.T) {
	tree := randomTree(rand.New(rand.NewPCG(3, 3)), 60)
	archive := tree.archive()
	root, path := memoryRoot(t)
	for _, broken := range []error{errors.New("broken"), io.ErrUnexpectedEOF, fmt.Errorf("peer: %w", io.EOF)} {
		for n := 0; n <= len(archive); n += 1 + len(archive)/20 {
			r := io.MultiReader(bytes.NewReader(archive[:n]), iotest.ErrReader(broken))
			_, err := Restore(r, root, "x", RestoreOptions{})
			var se *SyntaxError
			if !errors.Is(err, broken) || errors.As(err, &se) {
				t.Errorf("after %d bytes: %v", n, err)
			}
		}
		// At the very end too, where all that is needed has come.
		r := io.MultiReader(bytes.NewReader(archive), iotest.ErrReader(broken))
		if _, err := Restore(r, root, "x", RestoreOptions{}); !errors.Is(err, broken) {
			t.Errorf("at the end: %v", err)
		}
	}
	if _, err := Restore(lazy{}, root, "x", RestoreOptions{}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader that never reads: %v", err)
	}
	wantEmpty(t, path)
}

type lazy struct{}

func (lazy) Read([]byte) (int, error) { return 0, nil }

// needRoot skips a test that an ordinary user cannot run.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// mountSmall mounts a file system of size bytes.
func mountSmall(t *testing.T, options string) string {
	t.Helper()
	needRoot(t)
	path := t.TempDir()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, options); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestRestoreFullDisk(t *testing.T) {
	for name, tt := range map[string]struct {
		options string
		tree    node
	}{
		"no blocks": {"size=512k", node{mode: fs.ModeDir, entries: []entryNode{
			{"a", smallItem}, {"b", node{content: strings.Repeat("x", 4<<20)}}}}},
		"no inodes": {"nr_inodes=12", smallItem},
	} {
		t.Run(name, func(t *testing.T) {
			path := mountSmall(t, tt.options)
			root := openRoot(t, path)
			var before, after unix.Statfs_t
			if err := unix.Statfs(path, &before); err != nil {
				t.Fatal(err)
			}
			_, err := Restore(bytes.NewReader(tt.tree.archive()), root, "x", RestoreOptions{})
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("got %v", err)
			}
			wantEmpty(t, path)
			if err := unix.Statfs(path, &after); err != nil {
				t.Fatal(err)
			}
			if before.Bfree != after.Bfree || before.Ffree != after.Ffree {
				t.Errorf("%d blocks and %d inodes free, before %d and %d", after.Bfree, after.Ffree, before.Bfree, before.Ffree)
			}
		})
	}
}

func TestRestoreReadOnlyDisk(t *testing.T) {
	path := mountSmall(t, "ro")
	if _, err := Restore(bytes.NewReader(smallItem.archive()), openRoot(t, path), "x", RestoreOptions{}); !errors.Is(err, unix.EROFS) {
		t.Fatalf("got %v", err)
	}
}

// Tests again as an ordinary user, whom permissions hold back.
func TestAsOrdinaryUser(t *testing.T) {
	needRoot(t)
	home, err := os.MkdirTemp("", "nar-test-") // not t.TempDir: others may not enter that
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	const nobody = 65534
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program, temp := filepath.Join(home, "test"), filepath.Join(home, "tmp")
	for _, err := range []error{
		os.WriteFile(program, b, 0o755), os.Mkdir(temp, 0o755), os.Chmod(home, 0o755),
		os.Chmod(program, 0o755), os.Chown(temp, nobody, nobody),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "-test.short", "-test.v", "-test.run=Hostile|MaxSize|Restore|RemoveAll|Dedup|Dump|FuzzRead")
	cmd.Dir = temp
	cmd.Env = []string{"TMPDIR=" + temp, "PATH=" + os.Getenv("PATH"), "HOME=" + temp}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("cannot run as uid %d here: %v", nobody, err)
	}
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, name := range []string{"TestHostile", "TestRestoreMetadata", "TestDedup", "TestRemoveAll"} {
		if !bytes.Contains(out, []byte("--- PASS: "+name+" ")) {
			t.Errorf("%s did not run:\n%s", name, out)
		}
	}
	wantEmpty(t, temp)
}
