package bake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/internal/block"
	"ersatz/internal/compress"
	"ersatz/internal/folder"
	"ersatz/internal/storedb"
	"ersatz/nar"
	"ersatz/narinfo"
	"ersatz/nixsig"
	"ersatz/storepath"
)

// fast is a method that tests do not wait for.
var fast = []compress.Method{{Name: "zstd", Level: 1}}

// site is a scratch store and a cache folder for it.
type site struct {
	t       testing.TB
	store   string // folder
	cache   string
	scratch *storedb.Scratch
	db      *storedb.DB
	key     *guixsig.PrivateKey
	nix     *nixsig.SecretKey
	torrent bool             // caches make torrents
	paths   []storepath.Path // of all items
	log     *logBuffer
	now     time.Time // what the caches take for the time
	closed  map[*Cache]bool
}

// logBuffer is a log that goroutines write and a test reads.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newKey(t testing.TB, seed byte) *guixsig.PrivateKey {
	t.Helper()
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{seed}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSite(t testing.TB) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{
		t: t, store: filepath.Join(dir, "store"), cache: filepath.Join(dir, "cache"),
		key: newKey(t, 7), log: &logBuffer{}, closed: map[*Cache]bool{},
	}
	if err := os.Mkdir(s.store, 0o755); err != nil {
		t.Fatal(err)
	}
	// The time of the file system, which no bubble changes.
	fi, err := os.Stat(s.store)
	if err != nil {
		t.Fatal(err)
	}
	s.now = fi.ModTime()
	if s.scratch, err = storedb.Create(filepath.Join(dir, "state")); err != nil {
		t.Fatal(err)
	}
	s.db, err = storedb.Open(storedb.Options{StoreDir: s.store, StateDir: filepath.Join(dir, "state"), Socket: "/nonexistent"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.db.Close(); err != nil {
			t.Error(err)
		}
		if err := s.scratch.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *site) signer() Signer { return Signer{Guix: s.key, Host: "test", Nix: s.nix} }

func (s *site) acl() guixsig.ACL { return guixsig.ACL{}.Add(s.key.Public()) }

// open opens the cache. Missing options become fast ones. If torrents are made,
// all items are what roots refer to.
func (s *site) open(o Options) *Cache {
	s.t.Helper()
	if o.Methods == nil {
		o.Methods = fast
	}
	if o.Now == nil {
		o.Now = func() time.Time { return s.now }
	}
	o.Torrents = o.Torrents || s.torrent
	o.Log = slog.New(slog.NewTextHandler(s.log, nil))
	c, err := Open(s.cache, s.db, s.signer(), o)
	if err != nil {
		s.t.Fatal(err)
	}
	// Nothing is in the making, and what was left may have been a moment ago.
	begun := c.begun
	c.begun = time.Now().AddDate(100, 0, 0)
	if err := c.sweepTemp(s.t.Context(), nil); err != nil {
		s.t.Error(err)
	}
	c.begun = begun
	if o.Torrents {
		c.setAhead(s.paths)
	}
	s.t.Cleanup(func() {
		if !s.closed[c] { // a test that failed
			s.close(c)
		}
	})
	return c
}

func (s *site) close(c *Cache) {
	s.t.Helper()
	s.closed[c] = true
	if err := c.Close(); err != nil {
		s.t.Error(err)
	}
}

// add makes a store item whose file tree has one file of each content.
func (s *site) add(name string, refs []storepath.Path, contents ...[]byte) storedb.Info {
	s.t.Helper()
	sum := sha256.Sum256([]byte(name))
	p := storePath(s.t, s.store, fmt.Sprintf("%s-%s", hashPart(sum), name))
	if err := os.Mkdir(p.String(), 0o755); err != nil {
		s.t.Fatal(err)
	}
	for i, content := range contents {
		if err := os.WriteFile(filepath.Join(p.String(), fmt.Sprint("file", i)), content, 0o444); err != nil {
			s.t.Fatal(err)
		}
	}
	return s.register(p, refs)
}

func hashPart(sum [32]byte) string {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	b := make([]byte, 32)
	for i := range b {
		b[i] = digits[sum[i]%32]
	}
	return string(b)
}

func (s *site) register(p storepath.Path, refs []storepath.Path) storedb.Info {
	s.t.Helper()
	h := nar.NewHasher()
	n, err := nar.Dump(h, p.String())
	if err != nil {
		s.t.Fatal(err)
	}
	info := storedb.Info{
		Path: p, NarHash: n.Hash, NarSize: uint64(n.Size), References: refs,
		Deriver: s.store + "/" + strings.Repeat("d", 32) + "-" + p.Name + ".drv", Registered: time.Unix(1e9, 0),
	}
	if err := s.scratch.Register(s.t.Context(), info); err != nil {
		s.t.Fatal(err)
	}
	s.paths = append(s.paths, p)
	return info
}

// collect removes an item as the garbage collector does.
func (s *site) collect(p storepath.Path) {
	s.t.Helper()
	if err := s.scratch.Forget(s.t.Context(), p.String()); err != nil {
		s.t.Fatal(err)
	}
	if err := os.RemoveAll(p.String()); err != nil {
		s.t.Fatal(err)
	}
}

func storePath(t testing.TB, dir, base string) storepath.Path {
	t.Helper()
	p, err := storepath.ParseBase(dir, base)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func random(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// bake opens the cache, bakes items and closes it. It is for bubbles.
func (s *site) bake(o Options, paths ...storepath.Path) {
	s.t.Helper()
	c := s.open(o)
	defer s.close(c)
	s.run(c, func() {
		for _, p := range paths {
			if err := c.Bake(p); err != nil {
				s.t.Error(err)
			}
		}
	})
}

// run runs the cache until fn has returned and all work is done. It is for
// bubbles.
func (s *site) run(c *Cache, fn func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	fn()
	synctest.Wait()
	cancel()
	if err := <-done; err != nil {
		s.t.Error(err)
	}
}

// names returns the files of the cache folder, sorted, without those of SQLite
// and those that every cache has.
func (s *site) names() []string {
	s.t.Helper()
	var names []string
	err := filepath.WalkDir(s.cache, func(name string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(s.cache, name)
		if err == nil && !d.IsDir() && rel != infoFile && rel != KeyFile && rel != lockFile && !strings.Contains(rel, "index.sqlite") {
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// fsck returns the faults, one a line.
func (s *site) fsck(o FsckOptions) string {
	s.t.Helper()
	var b strings.Builder
	if o.Now == nil {
		// Files of this test were made a moment ago.
		o.Now = func() time.Time { return s.now.Add(2 * folder.YoungFor) }
	}
	err := Fsck(s.t.Context(), s.cache, s.signer().Keys(), o, func(f Fault) { fmt.Fprintln(&b, f.File+": "+f.Text, f.Repaired) })
	if err != nil {
		s.t.Fatal(err)
	}
	return b.String()
}

// narinfo returns a narinfo of the cache, verified.
func (s *site) narinfo(hash string) (*narinfo.Narinfo, narinfo.Signed) {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.cache, hash+suffix))
	if err != nil {
		s.t.Fatal(err)
	}
	n, err := narinfo.Parse(text)
	if err != nil {
		s.t.Fatal(err)
	}
	signed, err := n.VerifyGuix(s.acl())
	if err != nil {
		s.t.Fatal(err)
	}
	return n, signed
}

// check fails the test unless an entry is whole: narinfo, nars, the URN decoded
// from the blocks that the index gives, and the torrent if caches make them.
func (s *site) check(c *Cache, info storedb.Info) {
	s.t.Helper()
	n, signed := s.narinfo(info.Path.Hash)
	if signed.StorePath != info.Path || signed.NarHash != info.NarHash || signed.NarSize != info.NarSize {
		s.t.Errorf("narinfo of %s says %+v", info.Path, signed)
	}
	for _, one := range n.Nars {
		m := compress.Method{Name: one.Compression}
		got, size, err := folder.HashNar(s.t.Context(), c.path(c.Nar(m, info.Path.Base())), m.Name, info.NarSize)
		if err != nil || got.Hash != info.NarHash || uint64(size) != one.FileSize {
			s.t.Errorf("%s: %s of %d bytes, %v", one.URL, narinfo.FormatHash(got.Hash), size, err)
		}
	}
	rc, err := eris.ParseURN(signed.ERIS)
	if err != nil {
		s.t.Fatal(err)
	}
	format, err := compress.ParseFormat(signed.ERISFormat)
	if err != nil {
		s.t.Fatal(err)
	}
	r := eris.NewReader(s.t.Context(), rc, block.Fetcher(c.Blocks(), 1), eris.ReaderOptions{MaxLength: rc.MaxLength()})
	defer r.Close()
	d, err := compress.NewReader(r, format.Name)
	if err != nil {
		s.t.Fatal(err)
	}
	defer d.Close()
	if got, err := nar.Verify(d); err != nil || got.Hash != info.NarHash {
		s.t.Errorf("%s decodes to %s, %v", signed.ERIS, narinfo.FormatHash(got.Hash), err)
	}
	if s.torrent {
		s.checkTorrent(c, info)
	}
}
