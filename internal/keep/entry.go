package keep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"time"

	"ersatz/internal/block/narindex"
	"ersatz/internal/folder"
	"ersatz/storepath"
)

// maxKnown bounds the items that are remembered without need, at 400 bytes of
// memory each.
const maxKnown = 1 << 13

// entry is what the store remembers of an item that somebody is interested in.
// Its own fields do not change after it was made; the others are under Store.mu.
type entry struct {
	path    storepath.Path
	narHash [32]byte
	method  string
	came    time.Time

	asked   time.Time // zero: never
	noted   time.Time // the time of a request that the record's file has
	served  time.Time // when blocks of it were last read
	readers int
}

func (e *entry) nar() string { return narName(e.method, e.path.Base()) }

// used returns when an item was last asked for, or else when it came.
func (e *entry) used() time.Time {
	if e.asked.IsZero() {
		return e.came
	}
	return e.asked
}

// card returns the row of an entry, given what its nar and all of it takes.
func (e *entry) card(length, size int64) card {
	return card{
		hash: e.path.Hash, nar: narKey(e.narHash), length: length, size: size,
		came: e.came.UnixNano(), used: e.used().UnixNano(), ahead: e.asked.IsZero(),
	}
}

// lookup returns the entry of an item. The error matches ErrNone if it is not
// kept, and only then; while its files come or go, it waits. An item that is not
// whole, of which a crash or a power cut has left something, is removed. The caller
// has not s.change.
func (s *Store) lookup(hash string) (*entry, error) {
	e, _, err := s.look(hash)
	return e, err
}

// look is lookup, and returns the item if it had to be read.
func (s *Store) look(hash string) (*entry, *Item, error) {
	if !storepath.ValidHash(hash) {
		return nil, nil, ErrNone
	}
	for {
		s.mu.Lock()
		e, busy, begins := s.known[hash], s.busy[hash], s.begins
		s.mu.Unlock()
		if e != nil {
			return e, nil, nil
		}
		if busy != nil {
			<-busy
			continue
		}
		e, i, err := s.entry(hash)
		switch {
		case err == nil:
			if known := s.know(e, begins); known == e {
				return e, &i, nil
			} else if known != nil {
				return known, nil, nil
			}
		case broken(err):
			if err := s.removeBroken(context.Background(), hash); err != nil {
				return nil, nil, errors.Join(ErrNone, err)
			}
		case !errors.Is(err, ErrNone) || s.still(begins): // else it may have come meanwhile
			return nil, nil, err
		}
	}
}

// still reports whether no item has come or gone since there were so many begins.
func (s *Store) still(begins uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begins == begins
}

// forget forgets an entry whose files are not there.
func (s *Store) forget(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[e.path.Hash] == e {
		delete(s.known, e.path.Hash)
	}
}

// know remembers an entry, unless an item has come or gone since it was read:
// that may have been this one. It returns the one that is remembered.
func (s *Store) know(e *entry, begins uint64) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begins != begins {
		return nil
	}
	if known := s.known[e.path.Hash]; known != nil {
		return known
	}
	s.knowLocked(e)
	return e
}

// knowLocked remembers an entry, and forgets others that are of no use if there
// are many. The caller has s.mu.
func (s *Store) knowLocked(e *entry) {
	if len(s.known) >= s.most {
		now := s.now()
		for hash, e := range s.known {
			if !s.inUse(e, now) {
				delete(s.known, hash)
			}
		}
		s.most = max(maxKnown, 2*len(s.known))
	}
	s.known[e.path.Hash] = e
}

// maxFresh bounds the requests that the catalog has not been told of.
const maxFresh = 512

// note tells the catalog when items were last asked for.
func (s *Store) note(ctx context.Context) error {
	s.mu.Lock()
	fresh := s.fresh
	s.fresh = map[string]int64{}
	s.mu.Unlock()
	return s.cards.note(ctx, fresh)
}

// begin says that the files of an item come or go: who looks for it waits.
func (s *Store) begin(hash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy[hash] = make(chan struct{})
	s.begins++
	delete(s.known, hash)
	delete(s.fresh, hash)
}

// end is the end of what begin began.
func (s *Store) end(hash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.busy[hash])
	delete(s.busy, hash)
	s.indexBytes = s.indexSize()
	s.notifyLocked()
}

// count takes over what the catalog counts. The caller has s.change, or is alone.
func (s *Store) count() error {
	items, bytes, err := s.cards.totals()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items, s.itemBytes = items, bytes
	return nil
}

// withNar returns the entries of the items that have a nar.
func (s *Store) withNar(narHash [32]byte) (all []*entry, err error) {
	hashes, err := s.cards.withNar(context.Background(), narHash)
	if err != nil {
		return nil, err
	}
	for _, hash := range hashes {
		e, err := s.lookup(hash)
		switch {
		case errors.Is(err, ErrNone):
		case err != nil:
			return nil, err
		case e.narHash == narHash:
			all = append(all, e)
		}
	}
	return all, nil
}

// entry reads an item from disk, and makes its entry. The error matches ErrNone if
// there is no record.
func (s *Store) entry(hash string) (e *entry, i Item, err error) {
	name := s.record(hash)
	i, err = readItem(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, i, ErrNone
	}
	if err != nil {
		return nil, i, err
	}
	if i.Path.Hash != hash {
		return nil, i, fmt.Errorf("%s: %w: it is of %s", name, errRecord, i.Path)
	}
	e = &entry{path: i.Path, narHash: i.NarHash, method: i.Method}
	nar, err := os.Stat(s.path(e.nar()))
	if err != nil {
		return nil, i, err
	}
	if nar.Size() != i.Size {
		return nil, i, fmt.Errorf("%s: %w: the nar has %d bytes, not %d", name, errRecord, nar.Size(), i.Size)
	}
	if e.came, e.noted, err = folder.Times(name); err != nil {
		return nil, i, err
	}
	if e.noted.Unix() > 0 {
		e.asked = e.noted
	}
	i.Asked, i.Used = !e.asked.IsZero(), e.used()
	return e, i, nil
}

// broken reports whether an error of entry means that the item is not whole.
func broken(err error) bool {
	return errors.Is(err, errRecord) || errors.Is(err, fs.ErrNotExist)
}

// removeBroken removes an item that is not whole, if that is still so.
func (s *Store) removeBroken(ctx context.Context, hash string) error {
	s.change.Lock()
	defer s.change.Unlock()
	_, _, err := s.entry(hash)
	if !broken(err) {
		return nil
	}
	s.log.WarnContext(ctx, "broken item removed", slog.String("hash", hash), slog.Any("error", err))
	return s.remove(ctx, hash)
}

// allocated returns what an item takes on disk.
func (s *Store) allocated(e *entry) int64 {
	return folder.Allocated(s.path(e.nar())) + folder.Allocated(s.record(e.path.Hash)) +
		folder.Allocated(s.path(path.Join(narindex.TreeDir, e.path.Base()))) +
		folder.Allocated(s.path(path.Join(narindex.TorrentDir, e.path.Base())))
}
