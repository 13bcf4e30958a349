package keep

import (
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

	// What may be evicted is sorted once for the next maxListed evictions, or
	// for as long as listFor: a full store evicts for each block that comes.
	maxListed = 1024
	listFor   = time.Minute
)

// over reports whether more is kept than may be. The caller has s.mu.
func (s *Store) over() bool { return s.itemBytes+s.partBytes+s.indexBytes > s.quota }

// trim evicts until what is kept is within the quota, or all of it in use. One
// at a time does so, and nobody waits for it.
func (s *Store) trim() {
	now := s.now()
	s.mu.Lock()
	due := s.over() && !now.Before(s.retry)
	s.mu.Unlock()
	if !due || !s.evicting.TryLock() {
		return
	}
	defer s.evicting.Unlock()
	if now.Sub(s.listed).Abs() >= listFor {
		s.victims = nil
	}
	ctx := context.Background() // what was begun is ended
	for all := false; ; {
		if len(s.victims) == 0 {
			if all {
				break
			}
			s.victims, all = s.list()
			s.listed = now
			continue
		}
		v := s.victims[0]
		s.victims = s.victims[1:]
		if err := s.evict(ctx, v); err != nil {
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

// victim is what may be evicted, if nobody has used it since it was listed.
type victim struct {
	ahead bool // fetched ahead, and not asked for in time
	used  time.Time
	item  *entry // nil: a part
	part  PartID
}

// list returns what may be evicted, the least wanted first: what was fetched
// ahead and not asked for in time, then what was used least recently. It reports
// whether that is all.
func (s *Store) list() (victims []victim, all bool) {
	now := s.now()
	s.mu.Lock()
	for _, e := range s.items {
		if !s.inUse(e, now) {
			victims = append(victims, victim{ahead: e.asked.IsZero() && now.Sub(e.came) >= wantFor, used: e.used(), item: e})
		}
	}
	for id, l := range s.idle {
		victims = append(victims, victim{used: l.used, part: id})
	}
	s.mu.Unlock()
	slices.SortFunc(victims, func(a, b victim) int {
		if a.ahead != b.ahead {
			if a.ahead {
				return -1
			}
			return 1
		}
		return a.used.Compare(b.used)
	})
	if len(victims) <= maxListed {
		return victims, true
	}
	return slices.Clone(victims[:maxListed]), false
}

// inUse reports whether somebody reads an item, or gets blocks of it. The caller
// has s.mu.
func (s *Store) inUse(e *entry, now time.Time) bool {
	return e.readers > 0 || now.Sub(e.served) < serveFor
}

func (s *Store) evict(ctx context.Context, v victim) error {
	if v.item == nil {
		return s.evictPart(ctx, v.part, v.used)
	}
	s.change.Lock()
	defer s.change.Unlock()
	e := v.item
	s.mu.Lock()
	kept := s.inUse(e, s.now()) || !e.used().Equal(v.used)
	s.mu.Unlock()
	if kept {
		return nil
	}
	s.log.DebugContext(ctx, "evicted", slog.String("store_path", e.path.String()), slog.Int64("bytes", e.size))
	return s.remove(ctx, e)
}

// evictPart removes a part that nobody has had since it was used.
func (s *Store) evictPart(ctx context.Context, id PartID, used time.Time) error {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	l, ok := s.idle[id]
	if ok = ok && l.used.Equal(used); ok {
		delete(s.idle, id)
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
	var stale []victim
	s.mu.Lock()
	for id, l := range s.idle {
		if l.used.Before(since) {
			stale = append(stale, victim{used: l.used, part: id})
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, v := range stale {
		errs = append(errs, s.evict(ctx, v))
	}
	return errors.Join(errs...)
}
