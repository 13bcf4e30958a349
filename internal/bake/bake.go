// Package bake fills the cache folder of a substitute server: it compresses
// store items, encodes them as ERIS, signs their narinfos, puts them into
// IPFS, and removes what nobody asks for. docs/cache.md describes the folder
// and the life of an entry in it.
package bake

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"ersatz/internal/block/narindex"
	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/internal/storedb"
	"ersatz/internal/transport/ipfs"
	"ersatz/storepath"
)

var (
	// ErrBusy means that an item cannot be baked now: ask again later.
	ErrBusy = errors.New("bake: too much to do")

	// ErrFailed means that an item was tried a short while ago and cannot be
	// baked as it is: its files are not what the store's database says.
	ErrFailed = errors.New("bake: item is broken")

	// ErrLocked means that another process has the cache folder.
	ErrLocked = folder.ErrLocked
)

// Options are what of a cache has a default.
type Options struct {
	// Methods are the forms in which nars are kept. Default zstd:19.
	Methods []compress.Method
	// NarPath is Layout.NarPath.
	NarPath string
	// Workers bounds the items that are compressed at once, and the threads of an
	// item that is compressed while nothing else is. Beside each, three more may
	// wait for the disk. Default: the number of processors.
	Workers int
	// Queue bounds the items that wait. Default 64.
	Queue int
	// TTL is how long an entry is kept that nobody asks for and whose item is
	// gone from the store. Default 90 days.
	TTL time.Duration
	// IPFS is the daemon that blocks are put into. Default none.
	IPFS *ipfs.Client
	// Torrents says that the narinfos of what BakeAhead is told to bake get the
	// magnet link of a torrent of the blocks, those of what was baked before too,
	// and no others: who follows a link gives the blocks to everybody. It takes a
	// key of Guix, since nothing else covers the link. Default: they do not.
	Torrents bool
	// Trackers are the URLs of trackers that magnet links name. Default none.
	Trackers []string
	// Child returns a command that runs Child, for what costs something for each
	// byte of an item. Default: none, and that is done in this process, where it
	// makes others wait.
	Child func() *exec.Cmd
	// Log is where events go. Default none.
	Log *slog.Logger
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

func (o Options) defaults() Options {
	if len(o.Methods) == 0 {
		o.Methods = []compress.Method{{Name: "zstd", Level: 19}}
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Queue <= 0 {
		o.Queue = 64
	}
	if o.TTL <= 0 {
		o.TTL = 90 * 24 * time.Hour
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Cache is an open cache folder. It is safe for concurrent use.
type Cache struct {
	Layout
	dir    string
	store  *storedb.DB
	signer Signer
	o      Options
	log    *slog.Logger
	index  *narindex.Index
	lock   *os.File
	begun  time.Time // since when all that is written here is ours

	queue chan storepath.Path // what clients ask for
	roots chan storepath.Path // what BakeClosure hands on
	wake  chan struct{}       // there may be something to put into IPFS
	cores cores
	jobs  atomic.Int64 // that are under way

	children *children // nil: none

	mu      sync.Mutex
	queued  map[string]bool          // hash parts that wait or are being baked
	busy    map[string]chan struct{} // hash parts whose files somebody changes
	failed  map[string]failure       // by hash part
	full    bool                     // the disk is, and the log says so
	status  Status
	ahead   ahead         // what may be given to everybody
	changed chan struct{} // closed when a Library changes; nil if nobody waits
}

// Status counts what a cache has done since it was opened.
type Status struct {
	Queued  int // items that wait
	Working int // items that are being baked, those that wait for the disk among them
	Baked   int // items
	Failed  int // attempts
	Put     int // items put into IPFS
	Expired int // entries removed

	Took time.Duration // by the items that were baked, together
	CPU  time.Duration // processor time that processes of their own had for that
}

// Open opens the cache folder dir, which it makes if there is none, for items
// of store, whose narinfos signer signs. It reads no folder: what a killed
// process has left is for Run to remove. The error matches ErrLocked if another
// process has the folder. Close the Cache.
func Open(dir string, store *storedb.DB, signer Signer, o Options) (*Cache, error) {
	o = o.defaults()
	l := Layout{NarPath: o.NarPath}
	if err := errors.Join(l.validate(), checkMethods(o.Methods), checkTrackers(o.Trackers), signer.Validate()); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	c := &Cache{
		Layout: l, dir: dir, store: store, signer: signer, o: o, log: o.Log,
		queue: make(chan storepath.Path, o.Queue), roots: make(chan storepath.Path), wake: make(chan struct{}, 1),
		queued: map[string]bool{}, busy: map[string]chan struct{}{}, failed: map[string]failure{},
		cores: cores{free: o.Workers},
		ahead: ahead{known: make(chan struct{}), moved: make(chan struct{})},
	}
	if o.Child != nil {
		c.children = &children{command: o.Child, log: o.Log}
	}
	if err := c.open(); err != nil {
		return nil, fmt.Errorf("cache %s: %w", dir, errors.Join(err, c.Close()))
	}
	return c, nil
}

func (c *Cache) open() (err error) {
	for _, d := range c.dirs() {
		if err := durable.MkdirAll(c.path(d), 0o755); err != nil {
			return err
		}
	}
	if c.lock, err = folder.Lock(c.path(lockFile)); err != nil {
		return err
	}
	if c.begun, err = folder.Begin(c.lock); err != nil {
		return err
	}
	if err := c.writeKeys(); err != nil {
		return err
	}
	c.index, err = narindex.Open(c.dir)
	return err
}

// writeKeys writes what is said of the server, and with which keys it signs
// now: fsck goes by them.
func (c *Cache) writeKeys() error {
	files := map[string][]byte{infoFile: c.signer.CacheInfo(c.store.StoreDir()), KeyFile: nil, NixKeyFile: nil}
	if c.signer.Guix != nil {
		files[KeyFile] = c.signer.Guix.Public().Text()
	}
	if c.signer.Nix != nil {
		files[NixKeyFile] = []byte(c.signer.Nix.Public().String() + "\n")
	}
	for name, text := range files {
		name = c.path(name)
		switch {
		case text != nil:
			if err := write(name, text); err != nil {
				return err
			}
		case folder.Exists(name):
			if err := durable.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// write writes a small file, unless it has that content already.
func write(name string, text []byte) error {
	old, err := os.ReadFile(name)
	if err == nil && bytes.Equal(old, text) {
		return nil
	}
	return durable.WriteFile(name, 0o644, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

// Close closes the folder. Run has returned before.
func (c *Cache) Close() error {
	var errs []error
	if c.index != nil {
		errs = append(errs, c.index.Close())
	}
	if c.lock != nil {
		errs = append(errs, c.lock.Close())
	}
	return errors.Join(errs...)
}

// Dir returns the cache folder, an absolute path.
func (c *Cache) Dir() string { return c.dir }

// Blocks returns the blocks of all baked items.
func (c *Cache) Blocks() *narindex.Index { return c.index }

// Status returns what the cache has done.
func (c *Cache) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.Queued = len(c.queue)
	if c.children != nil {
		s.CPU = c.children.used()
	}
	return s
}

func (c *Cache) path(name string) string { return filepath.Join(c.dir, filepath.FromSlash(name)) }

// has reports whether the item with a hash part is baked.
func (c *Cache) has(hash string) bool { return folder.Exists(c.path(c.Narinfo(hash))) }

// touchEvery is how old the time of the last request may be, or half the TTL if
// that is less.
const touchEvery = time.Hour

// Touch notes that the item with a hash part was asked for now: the access
// time of its narinfo, at most once in touchEvery.
func (c *Cache) Touch(hash string) {
	if !storepath.ValidHash(hash) {
		return
	}
	name := c.path(c.Narinfo(hash))
	now := c.o.Now()
	last, err := folder.AccessTime(name)
	if err != nil || now.Sub(last) < min(touchEvery, c.o.TTL/2) {
		return
	}
	err = folder.SetAccessTime(name, now)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("time of a request not noted", slog.String("file", name), slog.Any("error", err))
	}
}
