package realguix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ersatz/guixsig"
	"ersatz/nar"
	"ersatz/storepath"
)

// limit bounds one test.
const limit = 5 * time.Minute

// world is a machine with its keys and a running test's context.
type world struct {
	*Machine
	t   *testing.T
	ctx context.Context
	key *guixsig.PrivateKey // of the server, in the ACL
}

// start gives the test a machine, or skips it where ERSATZ_GUIX_ROOT names none.
func start(t *testing.T) *world {
	t.Helper()
	root := os.Getenv(EnvRoot)
	switch {
	case root == "":
		t.Skipf("%s does not name a folder with a Guix (make check makes one)", EnvRoot)
	case os.Getuid() != 0:
		t.Skip("not root")
	}
	m, err := Start(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	w := &world{Machine: m, t: t, ctx: ctx, key: testKey(t, 1)}
	w.check(w.Trust(w.key, w.key.Public()))
	return w
}

// testKey returns the same key for the same number.
func testKey(t *testing.T, n byte) *guixsig.PrivateKey {
	t.Helper()
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// daemon runs a guix-daemon until the test ends or the next one is started.
func (w *world) daemon(o DaemonOptions) *Daemon {
	w.t.Helper()
	d, err := w.StartDaemon(w.ctx, o)
	w.check(err)
	w.t.Cleanup(func() {
		d.Stop()
		if w.t.Failed() {
			w.t.Logf("guix-daemon:\n%s", tail([]byte(d.Log())))
		}
	})
	return d
}

// addr returns an address that is free.
func (w *world) addr() string {
	w.t.Helper()
	addr, err := FreeAddr()
	w.check(err)
	return addr
}

// serve runs a publish server in the machine until the test ends.
func (w *world) serve(addr, name string, args ...string) *Server {
	w.t.Helper()
	_, port, _ := strings.Cut(addr, ":")
	args = append([]string{"publish", "--listen=127.0.0.1", "--port=" + port}, args...)
	s, err := Serve(w.ctx, addr, func(ctx context.Context) *exec.Cmd { return w.Command(ctx, name, args...) })
	w.check(err)
	w.t.Cleanup(func() {
		s.Stop()
		if w.t.Failed() {
			w.t.Logf("%s:\n%s", name, tail([]byte(s.Log())))
		}
	})
	return s
}

// storeItem returns the item with this name, whose hash part is made of c.
func storeItem(name string, c byte, tree string, refs ...storepath.Path) Item {
	p := storepath.Path{Dir: storepath.Guix, Hash: strings.Repeat(string(c), 32), Name: name}
	return Item{Path: p, Tree: tree, References: refs}
}

// The items that most tests move: dep, one file; many, thousands of files that
// refer to dep; big, one file.
type items struct{ dep, many, big Item }

func makeItems(t *testing.T) items {
	t.Helper()
	dir := t.TempDir()
	name := func(s string) string { return filepath.Join(dir, s) }
	for _, err := range []error{
		MakeFile(name("dep"), 1, 3000),
		MakePackage(name("many"), 2, 2500, 9<<20),
		MakeFile(name("big"), 3, 7<<20),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	i := items{dep: storeItem("dep-1.0", 'a', name("dep")), big: storeItem("big-1.0", 'c', name("big"))}
	i.many = storeItem("many-1.0", 'b', name("many"), i.dep.Path)
	i.many.References = append(i.many.References, i.many.Path)
	i.many.Deriver = "/gnu/store/" + strings.Repeat("d", 32) + "-many-1.0.drv"
	return i
}

func (i items) all() []Item { return []Item{i.dep, i.many, i.big} }

// wantInstalled checks that the store has exactly the item, with the metadata
// of store items and the owner uid, and that the database agrees.
func (w *world) wantInstalled(item Item, uid uint32) {
	w.t.Helper()
	want, err := nar.Dump(discard{}, item.Tree)
	w.check(err)
	got, err := w.Hash(item.Path)
	w.check(err)
	if got != want {
		w.t.Errorf("%s: nar is %v, not %v", item.Path, got, want)
	}
	w.check(filepath.WalkDir(w.Path(item.Path.String()), func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		return checkMeta(name, fi, uid)
	}))
	if _, err := w.Run(w.ctx, "guix", "gc", "--verify=contents"); err != nil {
		w.t.Errorf("guix gc --verify: %v", err)
	}
	refs, err := w.Run(w.ctx, "guix", "gc", "--references", item.Path.String())
	w.check(err)
	for _, ref := range item.References {
		if !strings.Contains(refs, ref.String()) {
			w.t.Errorf("%s: references are %q, without %s", item.Path, refs, ref)
		}
	}
}

func checkMeta(name string, fi fs.FileInfo, uid uint32) error {
	perm := fi.Mode().Perm()
	switch {
	case fi.ModTime().Unix() != 1:
		return fmt.Errorf("%s: modification time %v", name, fi.ModTime())
	case fi.Mode().Type() == fs.ModeSymlink:
	case fi.IsDir() && perm != 0o555, perm != 0o555 && perm != 0o444:
		return fmt.Errorf("%s: permissions %v", name, fi.Mode())
	}
	return checkOwner(fi, uid)
}

func checkOwner(fi fs.FileInfo, uid uint32) error {
	if st := fi.Sys().(*syscall.Stat_t); st.Uid != uid {
		return fmt.Errorf("%s: owner %d, not %d", fi.Name(), st.Uid, uid)
	}
	return nil
}

// wantAbsent checks that neither the item nor a part of it is there.
func (w *world) wantAbsent(item Item) {
	w.t.Helper()
	if n := w.parts(item); n != 0 {
		w.t.Errorf("the store has %d names of %s", n, item.Path)
	}
	if out, err := w.Run(w.ctx, "guix", "gc", "--references", item.Path.String()); err == nil {
		w.t.Errorf("%s is valid: %s", item.Path, out)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// baked waits until the server knows the size of all nars of each item, and
// returns the last one's narinfo.
func (w *world) baked(addr string, items ...Item) string {
	w.t.Helper()
	var text string
	for _, item := range items {
		url := "http://" + addr + "/" + item.Path.Hash + ".narinfo"
		var err error
		text, err = untilBaked(w.ctx, url)
		w.check(err)
	}
	return text
}

func untilBaked(ctx context.Context, url string) (string, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		status, text, err := get(ctx, url)
		if err == nil && status == http.StatusOK && strings.Count(text, "\nURL: ") == strings.Count(text, "\nFileSize: ") {
			return text, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("%s is not baked: status %d, %q, %w", url, status, text, errors.Join(ctx.Err(), err))
		}
	}
}

func get(ctx context.Context, url string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// uid returns the number of a user of the machine.
func (w *world) uid(name string) uint32 {
	w.t.Helper()
	out, err := w.Run(w.ctx, "id", "-u", name)
	w.check(err)
	n, err := strconv.ParseUint(strings.TrimSpace(out), 10, 32)
	w.check(err)
	return uint32(n)
}

// until waits for something that other processes do.
func (w *world) until(what string, done func() bool) {
	w.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("waiting until %s: %v", what, w.ctx.Err())
		}
	}
}
