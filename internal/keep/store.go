package keep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ersatz/internal/block/narindex"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/storepath"
)

// Names in the state folder besides those of narindex. Others in it (texts,
// sources.json, …) are not of this package.
const (
	narDir   = "nar"
	infoDir  = "narinfo"
	partsDir = "parts"
	lockFile = "lock"
)

// DefaultQuota is 10 GiB.
const DefaultQuota = 10 << 30

// Options are what of a Store has a default.
type Options struct {
	// Quota bounds what the store takes on disk, in bytes. Default DefaultQuota.
	Quota int64
	// Log is where events go. Default none.
	Log *slog.Logger
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

func (o Options) defaults() Options {
	if o.Quota <= 0 {
		o.Quota = DefaultQuota
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Store is an open state folder. It is safe for concurrent use.
type Store struct {
	dir   string
	want  int64 // the quota, if the disk has it
	disk  func() disk
	log   *slog.Logger
	now   func() time.Time
	lock  *os.File
	begun time.Time // since when all that is written in the folder is ours
	index *narindex.Index
	cards *catalog

	numbers atomic.Uint64 // of parts

	change   sync.Mutex // held while the files of items come and go
	evicting sync.Mutex // held by who evicts
	victims  []victim   // what is to be evicted next, under evicting
	listed   time.Time  // when that was found out

	mu         sync.Mutex
	quota      int64                    // want, or what the disk has
	fitted     time.Time                // when refit has compared it with the disk
	known      map[string]*entry        // by hash part: items that somebody was interested in of late
	most       int                      // of known, before some are forgotten
	fresh      map[string]int64         // by hash part: requests, in Unix nanoseconds, that the catalog was not told of
	busy       map[string]chan struct{} // hash parts whose files come or go; closed when they have
	mostLeft   int                      // of idle, before some are removed
	begins     uint64                   // how often one became busy
	parts      map[PartID]*Part         // that somebody has
	idle       map[PartID]left          // that nobody has
	items      int                      // that the catalog has
	itemBytes  int64                    // likewise, as allocated
	partBytes  int64                    // as allocated, but for parts larger than the quota
	indexBytes int64                    // when it was last looked at
	retry      time.Time                // before it nothing can be evicted
	changed    chan struct{}            // closed when an item comes or goes; nil if nobody waits
}

// narName returns the name of an item's nar, relative to the folder.
func narName(method, base string) string { return path.Join(narDir, method, base) }

// left is a part that nobody has.
type left struct {
	size    int64
	used    time.Time
	narHash [32]byte
}

// Open opens the state folder dir, which it makes if there is none. It reads
// neither records nor the names of items: Settle does that. The error matches
// ErrLocked if another process has the folder, and ErrForeign if it is none of a
// node. Close the Store.
func Open(dir string, o Options) (*Store, error) {
	if err := checkForeign(dir); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	lock, err := folder.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	return openLocked(dir, o, lock)
}

// openLocked is Open by who has the lock, which it takes over.
func openLocked(dir string, o Options, lock *os.File) (*Store, error) {
	o = o.defaults()
	s := &Store{
		dir: dir, want: o.Quota, quota: o.Quota, disk: func() disk { return diskOf(dir) }, log: o.Log, now: o.Now, lock: lock,
		known: map[string]*entry{}, most: maxKnown, mostLeft: maxLeft, fresh: map[string]int64{}, busy: map[string]chan struct{}{},
		parts: map[PartID]*Part{}, idle: map[PartID]left{},
	}
	if err := s.load(context.Background()); err != nil {
		return nil, fmt.Errorf("state folder %s: %w", dir, errors.Join(err, s.Close()))
	}
	s.fit()
	s.trim() // the quota may have been larger
	return s, nil
}

// Close closes the folder. Parts and files are closed before.
func (s *Store) Close() error {
	var errs []error
	if s.cards != nil {
		errs = append(errs, s.note(context.Background()), s.cards.close())
	}
	if s.index != nil {
		errs = append(errs, s.index.Close())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

func (s *Store) record(hash string) string { return s.path(infoDir + "/" + hash) }

// methods returns the compressions that nars are kept in.
func methods() []string { return []string{"none", "gzip", "lzip", "zstd", "xz", "bzip2"} }

// Get returns the item with a hash part. It does not count as a request. The
// error matches ErrNone if it is not kept.
func (s *Store) Get(hash string) (Item, error) {
	_, i, err := s.get(hash)
	return i, err
}

// get returns an item and its entry. The caller has not s.change.
func (s *Store) get(hash string) (*entry, Item, error) {
	for {
		e, i, err := s.look(hash)
		if err == nil && i == nil {
			i, err = s.item(e)
		}
		switch {
		case err == nil:
			return e, *i, nil
		case e == nil || !errors.Is(err, fs.ErrNotExist):
			return nil, Item{}, err
		}
		s.forget(e) // it has gone since, and another one may have come
	}
}

// ByNarHash returns an item with a nar, whatever its store path. The error
// matches ErrNone.
func (s *Store) ByNarHash(h [32]byte) (Item, error) {
	all, err := s.withNar(h)
	if err != nil {
		return Item{}, err
	}
	for _, e := range all {
		i, err := s.Get(e.path.Hash)
		if err == nil && i.NarHash == h || err != nil && !errors.Is(err, ErrNone) {
			return i, err
		}
	}
	return Item{}, ErrNone
}

// item reads an entry's record. The error matches fs.ErrNotExist if the item has
// gone since.
func (s *Store) item(e *entry) (*Item, error) {
	i, err := readItem(s.record(e.path.Hash))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i.Asked, i.Used = !e.asked.IsZero(), e.used()
	return &i, nil
}

// readItem reads the record of an item. The error matches errRecord if it is
// none.
func readItem(name string) (Item, error) {
	a, err := readRecord(name)
	a.Item.Size = a.FileSize
	return a.Item, err
}

func readRecord(name string) (About, error) {
	text, err := folder.Read(name, maxRecord)
	if err != nil {
		return About{}, fmt.Errorf("keep: %w", err)
	}
	a, err := parseRecord(text)
	if err != nil {
		return About{}, fmt.Errorf("keep: %s: %w", name, err)
	}
	return a, nil
}

func (s *Store) indexSize() (n int64) {
	for _, tail := range []string{"", "-wal", "-shm"} {
		n += folder.Allocated(s.path(narindex.File+tail)) + folder.Allocated(s.path(catalogFile+tail))
	}
	return n
}

// Remove removes an item, as when it turned out to be broken. Files that are
// open stay readable. One that is not kept is no error.
func (s *Store) Remove(ctx context.Context, hash string) error {
	if !storepath.ValidHash(hash) || !folder.Exists(s.record(hash)) {
		return nil
	}
	s.change.Lock()
	defer s.change.Unlock()
	return s.remove(ctx, hash)
}

// remove removes an item in the order that leaves nothing that looks whole. One
// that is not there is no error. The caller has s.change.
func (s *Store) remove(ctx context.Context, hash string) error {
	s.begin(hash)
	defer s.end(hash)
	return s.clear(ctx, hash)
}

// clear is remove for who has begun.
func (s *Store) clear(ctx context.Context, hash string) error {
	nars, err := s.narsOf(ctx, hash)
	if err != nil {
		return err
	}
	// What cannot be removed now is removed by the next Settle.
	ctx = context.WithoutCancel(ctx) // what was begun is ended
	err = errors.Join(removeItem(ctx, s.dir, s.index, hash, nars...), s.cards.remove(ctx, hash), s.count())
	if err != nil {
		return fmt.Errorf("keep: removing %s: %w", hash, err)
	}
	return nil
}

// narsOf returns the names of an item's nar, as its record and the index have it.
func (s *Store) narsOf(ctx context.Context, hash string) (names []string, err error) {
	if i, err := readItem(s.record(hash)); err == nil && i.Path.Hash == hash {
		names = append(names, narName(i.Method, i.Path.Base()))
	}
	i, err := s.index.Item(ctx, hash)
	if errors.Is(err, narindex.ErrNoItem) {
		return names, nil
	}
	if err == nil && !slices.Contains(names, i.Nar) {
		names = append(names, i.Nar)
	}
	return names, err
}

// removeItem removes the files of an item. What is not there is no error.
func removeItem(ctx context.Context, dir string, x *narindex.Index, hash string, nars ...string) error {
	for _, name := range append([]string{infoDir + "/" + hash}, nars...) {
		err := durable.Remove(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if x == nil {
		return nil
	}
	return x.Remove(ctx, hash)
}

// Usage returns what the store takes now.
func (s *Store) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.indexBytes = s.indexSize()
	return Usage{
		Items: s.items, ItemBytes: s.itemBytes,
		Parts: len(s.parts) + len(s.idle), PartBytes: s.partBytes,
		IndexBytes: s.indexBytes, Quota: s.quota,
	}
}
