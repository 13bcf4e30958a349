package realnix_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/internal/realguix"
	"ersatz/internal/realnix"
)

// limit bounds one test.
const limit = 3 * time.Minute

// buildErsatz builds the program once for all tests.
var buildErsatz = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "realnix-bin-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // not only root runs it
		return "", err
	}
	program := filepath.Join(dir, "ersatz")
	out, err := exec.Command("go", "build", "-tags", "netgo,osusergo,disable_libutp,nosqlite,noboltdb", "-o", program, "ersatz/cmd/ersatz").CombinedOutput()
	if err != nil {
		err = errors.Join(fmt.Errorf("building ersatz: %w\n%s", err, out), os.RemoveAll(dir))
	}
	return program, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if realnix.Missing() == "" { // else no test has built it
		if program, err := buildErsatz(); err == nil {
			os.RemoveAll(filepath.Dir(program))
		}
	}
	os.Exit(code)
}

// world is a machine that publishes, with its items and key.
type world struct {
	*realnix.Machine
	t         *testing.T
	ctx       context.Context
	program   string
	dep, item string // paths; item refers to dep, and to itself
	public    string // the key in key.sec
}

// expression gives an item that no content address vouches for, so that it
// needs a signature, with a reference to another one and to itself, an
// executable file, a link, and a name that URLs encode.
const expression = `
let
  make = name: script: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/bin:/usr/bin";
    args = [ "-ec" script ];
  };
  dep = make "dep-1.0" "echo dep > $out";
in make "item++-1.0" ''
  echo building the item
  mkdir -p $out/bin
  echo ${dep} $out > $out/refs
  seq 1 200000 > $out/numbers
  echo 'exit 0' > $out/bin/run
  chmod +x $out/bin/run
  ln -s bin/run $out/link
''`

// start gives the test a machine with items and a key, or skips it.
func start(t *testing.T) *world {
	t.Helper()
	if why := realnix.Missing(); why != "" {
		t.Skip(why)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx}
	var err error
	w.program, err = buildErsatz()
	w.check(err)
	w.Machine = w.machine()
	w.item, err = w.Build(ctx, expression)
	w.check(err)
	for ref := range strings.FieldsSeq(w.run("nix-store", "--query", "--references", w.item)) {
		if ref != w.item {
			w.dep = ref
		}
	}
	w.run("nix-store", "--generate-binary-cache-key", "cache.example-1", w.Path("/key.sec"), w.Path("/key.pub"))
	text, err := os.ReadFile(w.Path("/key.pub"))
	w.check(err)
	w.public = string(text)
	return w
}

// machine makes one, which ends with the test.
func (w *world) machine() *realnix.Machine {
	w.t.Helper()
	// Not t.TempDir, which fails to remove folders without write permission.
	dir, err := os.MkdirTemp("", "realnix-")
	w.check(err)
	w.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			w.t.Error(err)
		}
	})
	w.check(os.Chmod(dir, 0o755))
	m, err := realnix.New(dir)
	w.check(err)
	return m
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// run runs a command that must succeed.
func (w *world) run(name string, args ...string) string {
	w.t.Helper()
	out, err := w.Run(w.ctx, name, args...)
	w.check(err)
	return strings.TrimSpace(out)
}

// publish runs ersatz publish for the store until the test ends.
func (w *world) publish(args ...string) *realguix.Server {
	w.t.Helper()
	addr, err := realguix.FreeAddr()
	w.check(err)
	_, port, _ := strings.Cut(addr, ":")
	args = append([]string{"publish", "--listen=127.0.0.1", "--port=" + port, "--store=/nix/store"}, args...)
	s, err := realguix.Serve(w.ctx, addr, func(ctx context.Context) *exec.Cmd { return w.Command(ctx, w.program, args...) })
	w.check(err)
	w.t.Cleanup(func() {
		s.Stop()
		if w.t.Failed() {
			w.t.Log(s.Log())
		}
	})
	return s
}

func (w *world) keyFlag() string { return "--nix-key=" + w.Path("/key.sec") }

// get asks a server for a path.
func (w *world) get(url string) (status int, body string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, url, nil)
	w.check(err)
	res, err := http.DefaultTransport.RoundTrip(req)
	w.check(err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	w.check(err)
	return res.StatusCode, string(b)
}

func narinfoURL(s *realguix.Server, item string) string {
	return s.URL + "/" + path.Base(item)[:32] + ".narinfo"
}

// baked waits until a narinfo has a URN, and returns it.
func (w *world) baked(s *realguix.Server, item string) string {
	w.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if status, text := w.get(narinfoURL(s, item)); status == http.StatusOK && strings.Contains(text, "\nERIS: urn:eris:") {
			return text
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("%s is not baked: %v", item, w.ctx.Err())
		}
	}
}

// copyTo has the Nix of a new machine copy the item from a server, trusting
// one key.
func (w *world) copyTo(s *realguix.Server, public string) (*realnix.Machine, error) {
	w.t.Helper()
	return w.copyFrom(s.URL, public)
}

func (w *world) copyFrom(url, public string) (*realnix.Machine, error) {
	w.t.Helper()
	m := w.machine()
	_, err := m.Run(w.ctx, "nix", "copy", "--from", url, "--option", "trusted-public-keys", public, w.item)
	return m, err
}

// wantCopied checks that a machine has the item, its dependency and their
// references, as the machine that published.
func (w *world) wantCopied(m *realnix.Machine) {
	w.t.Helper()
	for _, p := range []string{w.dep, w.item} {
		want, err := w.Hash(w.ctx, p)
		if err != nil { // collected meanwhile
			want = ""
		}
		got, err := m.Hash(w.ctx, p)
		if err != nil || want != "" && got != want {
			w.t.Errorf("%s: %s instead of %s, %v", p, got, want, err)
		}
	}
	refs, err := m.Run(w.ctx, "nix-store", "--query", "--references", w.item)
	if err != nil || !strings.Contains(refs, w.dep) || !strings.Contains(refs, w.item) {
		w.t.Errorf("references %q, %v", refs, err)
	}
}

// wantRefused checks that Nix took nothing that needs a signature.
func (w *world) wantRefused(m *realnix.Machine, err error) {
	w.t.Helper()
	if err == nil || !strings.Contains(err.Error(), "lacks a valid signature") {
		w.t.Errorf("not refused for its signature: %v", err)
	}
	for _, p := range []string{w.dep, w.item} {
		if m.Valid(w.ctx, p) {
			w.t.Errorf("%s is installed", p)
		}
		if _, err := os.Lstat(m.Path(p)); !errors.Is(err, os.ErrNotExist) {
			w.t.Errorf("%s is there: %v", p, err)
		}
	}
}
