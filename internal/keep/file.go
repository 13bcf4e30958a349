package keep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"ersatz/internal/durable"
	"ersatz/internal/folder"
)

// File is the compressed nar of an item, open for reading. It is not evicted
// before Close.
type File struct {
	*os.File
	Item Item

	s    *Store
	e    *entry
	once sync.Once
}

// Open opens the compressed nar of the item with a hash part, and notes that it
// was asked for now. The error matches ErrNone.
func (s *Store) Open(hash string) (*File, error) {
	for {
		e, i, err := s.get(hash)
		if err != nil {
			return nil, err
		}
		if !s.read(e) {
			continue
		}
		f, err := os.Open(s.path(e.nar()))
		if err == nil && s.knows(e) { // else it may be of another item, that has come meanwhile
			s.asked(e)
			return &File{File: f, Item: i, s: s, e: e}, nil
		}
		s.unread(e)
		switch {
		case err == nil:
			f.Close() // it was not used
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("keep: %w", err)
		default: // somebody else has removed it, or it was replaced
			s.forget(e)
			if err := s.removeBroken(context.Background(), hash); err != nil {
				return nil, errors.Join(ErrNone, err)
			}
		}
	}
}

// read counts one more who reads an item, unless that has gone or was forgotten.
func (s *Store) read(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.known[e.path.Hash] == e
	if known {
		e.readers++
	}
	return known
}

// knows reports whether an entry is of an item that has not gone since.
func (s *Store) knows(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[e.path.Hash] == e
}

// Close closes the file.
func (f *File) Close() error {
	err := f.File.Close()
	f.once.Do(func() { f.s.unread(f.e) })
	return err
}

// Also keeps another item that has the same nar: they share the file, which the
// quota counts twice. Of item, what says who it is and who said so counts, and
// Signed: whether its narinfo's signature covers the read capability of this
// one. An item with that hash part is replaced.
func (f *File) Also(ctx context.Context, item Item) error {
	s, of := f.s, f.Item
	item.NarHash, item.NarSize, item.Method, item.Size = of.NarHash, of.NarSize, of.Method, of.Size
	item.ReadCap, item.Format = of.ReadCap, of.Format
	if item.Path.Hash == of.Path.Hash {
		return fmt.Errorf("keep: %s is kept already", item.Path)
	}
	defer s.trim()
	err := s.publish(ctx, &item, encode(ctx, f.File, &item), placing{
		func(nar string) error {
			err := durable.Link(f.Name(), nar)
			if errors.Is(err, fs.ErrExist) { // a crash has left it, of no item
				err = errors.Join(durable.Remove(nar), durable.Link(f.Name(), nar))
			}
			return err
		},
		durable.Remove,
	})
	if err != nil {
		return fmt.Errorf("keep: %s: %w", item.Path, err)
	}
	return nil
}

func (s *Store) unread(e *entry) {
	s.mu.Lock()
	e.readers--
	s.retry = time.Time{}
	s.mu.Unlock()
	s.trim()
}

// noteEvery is how old the time of the last request on disk may be.
const noteEvery = time.Hour

// asked notes that an item was asked for now: on disk it is the access time of
// the record, 1970 for one that nobody has asked for yet.
func (s *Store) asked(e *entry) {
	now := s.now()
	s.mu.Lock()
	e.asked = now
	s.fresh[e.path.Hash] = now.UnixNano()
	full := len(s.fresh) >= maxFresh
	due := now.Sub(e.noted) >= noteEvery
	if due {
		e.noted = now
	}
	s.mu.Unlock()
	if full {
		if err := s.note(context.Background()); err != nil {
			s.log.Warn("times of requests not noted", slog.Any("error", err))
		}
	}
	if !due {
		return
	}
	if err := folder.SetAccessTime(s.record(e.path.Hash), now); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("time of a request not noted", slog.String("store_path", e.path.String()), slog.Any("error", err))
	}
}
