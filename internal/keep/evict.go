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
	s.refit()
	s.mu.Lock()
	due = s.over()
	s.mu.Unlock()
	if !due {
		return
	}
	if now.Sub(s.listed).Abs() >= listFor {
		s.victims = nil
	}
	ctx := context.Background() // what was begun is ended
	for all := false; ; {
		if len(s.victims) == 0 {
			if all {
				break
			}
			var err error
			if s.victims, all, err = s.list(ctx); err != nil {
				s.log.WarnContext(ctx, "eviction", slog.Any("error", err))
				break
			}
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
	ahead bool  // fetched ahead, and not asked for in time
	used  int64 // in Unix nanoseconds
	hash  string
	part  PartID // "" for an item
}

// list returns what may be evicted, the least wanted first: what was fetched
// ahead and not asked for in time, then what was used least recently. It reports
// whether that is all.
func (s *Store) list(ctx context.Context) (victims []victim, all bool, err error) {
	if err := s.note(ctx); err != nil {
		return nil, false, err
	}
	now := s.now()
	all, err = s.cards.oldest(ctx, now.Add(-wantFor).UnixNano(), func(hash string, used int64, ahead bool) bool {
		s.mu.Lock()
		e := s.known[hash]
		kept := e != nil && s.inUse(e, now)
		s.mu.Unlock()
		if !kept {
			victims = append(victims, victim{ahead: ahead, used: used, hash: hash})
		}
		return len(victims) <= maxListed
	})
	if err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	for id, l := range s.idle {
		victims = append(victims, victim{used: l.used.UnixNano(), part: id})
	}
	s.mu.Unlock()
	slices.SortStableFunc(victims, func(a, b victim) int {
		if a.ahead != b.ahead {
			if a.ahead {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.used, b.used)
	})
	if all && len(victims) <= maxListed {
		return victims, true, nil
	}
	return slices.Clone(victims[:min(maxListed, len(victims))]), false, nil
}

// inUse reports whether somebody reads an item, or gets blocks of it. The caller
// has s.mu.
func (s *Store) inUse(e *entry, now time.Time) bool {
	return e.readers > 0 || now.Sub(e.served) < serveFor
}

func (s *Store) evict(ctx context.Context, v victim) error {
	if v.part != "" {
		return s.evictPart(ctx, v.part, v.used)
	}
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	e := s.known[v.hash]
	_, asked := s.fresh[v.hash]
	kept := asked || e != nil && s.inUse(e, s.now())
	s.mu.Unlock()
	if kept {
		return nil
	}
	c, ok, err := s.cards.card(ctx, v.hash)
	if err != nil || !ok || c.used != v.used {
		return err
	}
	s.log.DebugContext(ctx, "evicted", slog.String("hash", v.hash), slog.Int64("bytes", c.size))
	return s.remove(ctx, v.hash)
}

// evictPart removes a part that nobody has had since it was used.
func (s *Store) evictPart(ctx context.Context, id PartID, used int64) error {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	l, ok := s.idle[id]
	if ok = ok && l.used.UnixNano() == used; ok {
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

// maxLeft bounds the parts that nobody has: all of them are looked at when a store is
// opened.
const maxLeft = 4096

// thin removes the parts that nobody has and that were used least recently, if there
// are too many.
func (s *Store) thin(ctx context.Context) {
	var all []victim
	s.mu.Lock()
	many := len(s.idle) - s.mostLeft
	if many > 0 {
		for id, l := range s.idle {
			all = append(all, victim{used: l.used.UnixNano(), part: id})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b victim) int { return cmp.Compare(a.used, b.used) })
	for _, v := range all[:max(0, many)] {
		if err := s.evict(ctx, v); err != nil {
			s.log.WarnContext(ctx, "eviction", slog.Any("error", err))
		}
	}
}

// dropStale removes the parts that nobody has used since a time.
func (s *Store) dropStale(ctx context.Context, since time.Time) error {
	var stale []victim
	s.mu.Lock()
	for id, l := range s.idle {
		if l.used.Before(since) {
			stale = append(stale, victim{used: l.used.UnixNano(), part: id})
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, v := range stale {
		errs = append(errs, s.evict(ctx, v))
	}
	return errors.Join(errs...)
}
