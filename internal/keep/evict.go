package keep

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"path"
	"slices"
	"time"
)

const (
	// wantFor is how long an item that was fetched ahead counts as one that is
	// in use, though nobody has asked for it.
	wantFor = 10 * time.Minute

	// serveFor is how long an item stays whose blocks somebody gets.
	serveFor = time.Minute

	// retryAfter is the time between two attempts when all that is kept is in
	// use.
	retryAfter = 5 * time.Second
)

// over reports whether more is kept than may be. The caller has s.mu.
func (s *Store) over() bool { return s.itemBytes+s.partBytes+s.indexBytes > s.quota }

// trim evicts until what is kept is within the quota, or all of it in use. One
// at a time does so, and nobody waits for it.
func (s *Store) trim() {
	s.mu.Lock()
	due := s.over() && !s.now().Before(s.retry)
	s.mu.Unlock()
	if !due || !s.evicting.TryLock() {
		return
	}
	defer s.evicting.Unlock()
	ctx := context.Background() // what was begun is ended
	for _, v := range s.victims() {
		if err := v.remove(ctx); err != nil {
			s.log.WarnContext(ctx, "eviction", slog.Any("error", err))
		}
		s.mu.Lock()
		over := s.over()
		s.mu.Unlock()
		if !over {
			return
		}
	}
	s.mu.Lock()
	s.retry = s.now().Add(retryAfter)
	s.mu.Unlock()
}

// victim is what may be evicted.
type victim struct {
	ahead  bool // fetched ahead, and not asked for in time
	used   time.Time
	remove func(ctx context.Context) error
}

// victims returns what may be evicted, the least wanted first: what was fetched
// ahead and not asked for in time, then what was used least recently.
func (s *Store) victims() []victim {
	now := s.now()
	var all []victim
	s.mu.Lock()
	for _, e := range s.items {
		if e.readers == 0 && now.Sub(e.served) >= serveFor {
			all = append(all, victim{
				ahead: e.asked.IsZero() && now.Sub(e.came) >= wantFor, used: e.used(),
				remove: func(ctx context.Context) error { return s.evictItem(ctx, e) },
			})
		}
	}
	for id, l := range s.idle {
		all = append(all, victim{used: l.used, remove: func(ctx context.Context) error { return s.evictPart(ctx, id) }})
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b victim) int {
		if a.ahead != b.ahead {
			if a.ahead {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.used.UnixNano(), b.used.UnixNano())
	})
	return all
}

func (s *Store) evictItem(ctx context.Context, e *entry) error {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	busy := e.readers > 0
	s.mu.Unlock()
	if busy {
		return nil
	}
	s.log.DebugContext(ctx, "evicted", slog.String("store_path", e.path.String()), slog.Int64("bytes", e.size))
	return s.remove(ctx, e)
}

func (s *Store) evictPart(ctx context.Context, id PartID) error {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	l, ok := s.idle[id]
	delete(s.idle, id)
	if ok {
		s.parts[id] = nil // nobody gets it while it goes
		s.partBytes -= l.size
	}
	s.mu.Unlock()
	if !ok {
		return nil
	}
	s.log.DebugContext(ctx, "part evicted", slog.String("part", string(id)), slog.Int64("bytes", l.size))
	err := removePart(s.path(path.Join(partsDir, string(id))))
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.parts, id)
	return err
}

// dropStale removes the parts that nobody has used since a time.
func (s *Store) dropStale(ctx context.Context, since time.Time) error {
	var stale []PartID
	s.mu.Lock()
	for id, l := range s.idle {
		if l.used.Before(since) {
			stale = append(stale, id)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, id := range stale {
		errs = append(errs, s.evictPart(ctx, id))
	}
	return errors.Join(errs...)
}
