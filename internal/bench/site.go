package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/realguix"
	"ersatz/nar"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// Options of a run.
type Options struct {
	// Root is the folder that scripts/guix-root.sh has made. Default: groups
	// that need it are an error.
	Root string
	// Ersatz is the program to measure: a static build, since it runs in
	// Root. ersatz-substitute lies beside it.
	Ersatz string
	// Wrapper is packaging/ersatz-guix, which the group "several" needs.
	Wrapper string
	// Kubo is an ipfs program. Default: its rows are left out.
	Kubo string
	// Disk is a folder on a disk. Default: rows with a store there are left
	// out.
	Disk string
	// Runs is how often each thing is measured. Default 5.
	Runs int
	// Quick leaves out groups that need a Guix or much time, and makes the
	// others take little: enough to see that something has become slower.
	Quick bool
	// Log is told what is being done.
	Log *slog.Logger

	absent *absent
}

// item is a store item of the site.
type item struct {
	realguix.Item
	nar  nar.Info
	what string // for people
}

// site is where things are measured: a machine whose store has the items, and
// one that substitutes them.
type site struct {
	o              Options
	dir            string // for trees, on the host
	key            *guixsig.PrivateKey
	origin, client *realguix.Machine
	disk           *realguix.Machine // whose store is on a disk, nil if there is none
	kept           int               // what was installed there before
	cleanup        []func() error
}

const (
	mib       = 1 << 20
	manyFiles = 5950
	queried   = 500
)

// newSite starts the machines, with empty stores.
func newSite(ctx context.Context, o Options) (*site, error) {
	s := &site{o: o}
	err := s.start(ctx)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *site) start(ctx context.Context) (err error) {
	if s.key, err = guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 32))); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "ersatz-bench-"); err != nil {
		return err
	}
	s.cleanup = append(s.cleanup, func() error { return os.RemoveAll(s.dir) })
	if s.origin, err = s.machine(realguix.Options{}); err != nil {
		return err
	}
	if s.client, err = s.machine(realguix.Options{}); err != nil {
		return err
	}
	d, err := s.origin.StartDaemon(ctx, realguix.DaemonOptions{})
	if err != nil {
		return err
	}
	s.cleanup = append(s.cleanup, func() error { d.Stop(); return nil })
	return nil
}

func (s *site) machine(o realguix.Options) (*realguix.Machine, error) {
	m, err := realguix.Start(s.o.Root, o)
	if err != nil {
		return nil, err
	}
	s.cleanup = append(s.cleanup, m.Close)
	err = m.Trust(s.key, s.key.Public())
	return m, errors.Join(err, installErsatz(m, s.o.Ersatz),
		os.MkdirAll(m.Path("/var/lib/ersatz"), 0o755))
}

// installErsatz copies ersatz and ersatz-substitute, which lies beside it, into
// a machine.
func installErsatz(m *realguix.Machine, ersatz string) error {
	return errors.Join(m.CopyFile(ersatz, "/usr/local/bin/ersatz", 0o755),
		m.CopyFile(ersatz+"-substitute", "/usr/local/bin/ersatz-substitute", 0o755))
}

func (s *site) close() error {
	var errs []error
	for i := len(s.cleanup) - 1; i >= 0; i-- {
		errs = append(errs, s.cleanup[i]())
	}
	return errors.Join(errs...)
}

// add makes an item and puts it into the origin's store.
func (s *site) add(ctx context.Context, name, what string, hash byte, tree func(path string) error) (item, error) {
	path := filepath.Join(s.dir, name)
	if err := tree(path); err != nil {
		return item{}, err
	}
	p := storepath.Path{Dir: storepath.Guix, Hash: strings.Repeat(string(hash), 32), Name: name}
	i := item{Item: realguix.Item{Path: p, Tree: path}, what: what}
	var err error
	if i.nar, err = nar.Dump(io.Discard, path); err != nil {
		return item{}, err
	}
	s.o.Log.InfoContext(ctx, "importing", slog.String("item", name), slog.Int64("nar_size", i.nar.Size))
	err = s.origin.Import(ctx, s.key, i.Item)
	return i, errors.Join(err, os.RemoveAll(path))
}

// tinyScript makes texts in the store, which takes less time than to import
// signed items one by one.
const tinyScript = `(use-modules (guix store))
(with-store store
  (for-each (lambda (i)
              (display (add-text-to-store store (string-append "tiny-" (number->string i))
                                          (make-string (+ 400 i) #\x)))
              (newline))
            (iota %d)))
`

// tiny makes many small items.
func (s *site) tiny(ctx context.Context, n int) ([]storepath.Path, error) {
	s.o.Log.InfoContext(ctx, "adding", slog.Int("items", n))
	const script = "/root/tiny.scm"
	if err := s.origin.WriteFile(script, fmt.Appendf(nil, tinyScript, n), 0o644); err != nil {
		return nil, err
	}
	out, err := s.origin.Run(ctx, "guix", "repl", script)
	if err != nil {
		return nil, err
	}
	var paths []storepath.Path
	for _, line := range strings.Fields(out) {
		p, err := storepath.Parse(line)
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	if len(paths) != n {
		return nil, fmt.Errorf("%d items of %d were made", len(paths), n)
	}
	return paths, nil
}

// addMany and addBig make the two large items.
func (s *site) addMany(ctx context.Context) (item, error) {
	return s.add(ctx, "many", "124 MB in 5,950 files", 'b', func(path string) error {
		return realguix.MakePackage(path, 2, manyFiles, 122_500_000)
	})
}

func (s *site) addBig(ctx context.Context) (item, error) {
	return s.add(ctx, "big", "one file of 100 MiB", 'c', func(path string) error {
		return realguix.MakeFile(path, 3, 100*mib)
	})
}

// bakeAll has a server bake items side by side.
func bakeAll(ctx context.Context, client *http.Client, url string, paths []storepath.Path) error {
	for _, p := range paths {
		if _, err := fetch(ctx, client, url+"/"+p.Hash+".narinfo"); err != nil {
			return err
		}
	}
	for _, p := range paths {
		if _, err := bake(ctx, client, url, p); err != nil {
			return err
		}
	}
	return nil
}

// bake waits until a server has baked an item, and returns its narinfo.
func bake(ctx context.Context, client *http.Client, url string, p storepath.Path) (*narinfo.Narinfo, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := fetch(ctx, client, url+"/"+p.Hash+".narinfo")
		if err != nil {
			return nil, err
		}
		if text != nil {
			n, err := narinfo.Parse(text)
			if err != nil {
				return nil, err
			}
			if len(n.Nars) > 0 && n.Nars[0].FileSize > 0 {
				return n, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting until %s is baked: %w", p, ctx.Err())
		}
	}
}

// fetch returns what is at a URL, nil if nothing is.
func fetch(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK {
		text = nil
	}
	return text, err
}

// static serves nars in one compression, and narinfos that have no URN, as
// plain files from memory: what is measured is the client.
func (s *site) static(nars map[string][]byte, compression string, items ...item) (url string, err error) {
	mux := http.NewServeMux()
	file := func(path string, text []byte) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(text)))
			_, _ = w.Write(text) // the client sees that it is cut
		})
	}
	file("/nix-cache-info", []byte("StoreDir: /gnu/store\nWantMassQuery: 0\nPriority: 100\n"))
	for _, i := range items {
		body := narinfo.Fields{StorePath: i.Path, NarHash: i.nar.Hash, NarSize: uint64(i.nar.Size)}.Body()
		text, err := narinfo.SignGuix(body, s.key, "static")
		if err != nil {
			return "", err
		}
		path, data := "/nar/"+i.Path.Base(), nars[i.Path.Name]
		text = append(text, narinfo.Locations([]narinfo.Nar{{URL: path[1:], Compression: compression, FileSize: uint64(len(data))}})...)
		file("/"+i.Path.Hash+".narinfo", text)
		file(path, data)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: mux}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	s.cleanup = append(s.cleanup, func() error {
		err := server.Close()
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	})
	return "http://" + l.Addr().String(), nil
}

// The two programs, in a machine.
func ours(m *realguix.Machine) substituter {
	return substituter{machine: m, name: "ersatz", command: []string{"ersatz-substitute"}}
}
func stock(m *realguix.Machine) substituter {
	return substituter{machine: m, name: "guix", command: []string{"guix", "substitute"}}
}

// options returns _NIX_OPTIONS as guix-daemon 1.5.0 has it.
func options(url string) string {
	return strings.Join([]string{
		"build-fallback=false", "build-use-substitutes=true", "deduplicate=yes", "discover=false", "locale=C.UTF-8",
		"multiplexed-build-output=true", "print-extended-build-trace=1", "substitute-urls=" + url, "terminal-columns=80", "user-name=root",
	}, "\n")
}

// install substitutes an item into a machine and checks and removes it.
func (s *site) install(ctx context.Context, by substituter, url string, i item) (usage, error) {
	m, path := by.machine, i.Path.String()
	for _, dir := range []string{"/gnu/store/.links", path} {
		if err := s.clear(m, dir); err != nil {
			return usage{}, err
		}
	}
	if err := os.Mkdir(m.Path("/gnu/store/.links"), 0o755); err != nil {
		return usage{}, err
	}
	u, lines, err := by.ask(ctx, "--substitute", options(url), "substitute "+path+" "+path+"\n", func(string) bool { return true })
	if err != nil {
		return u, err
	}
	if !strings.HasPrefix(lines[0], "success ") {
		return u, fmt.Errorf("%s: %s", by.name, lines[0])
	}
	info, err := m.Hash(i.Path)
	if err == nil && info != i.nar {
		err = fmt.Errorf("%s: %s is not what it should be", by.name, i.Path)
	}
	return u, err
}

// clear takes a folder out of a machine's store. On a disk it is only moved, to
// be removed in the end: ext4 uses no inode again for some minutes after its
// file was removed, and passes all of those whenever it makes a file, which would
// be most of what is measured.
func (s *site) clear(m *realguix.Machine, dir string) error {
	if m != s.disk {
		return os.RemoveAll(m.Path(dir))
	}
	s.kept++
	err := os.Rename(m.Path(dir), m.Path(fmt.Sprintf("/gnu/kept-%d", s.kept)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
