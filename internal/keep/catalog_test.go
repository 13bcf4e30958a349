package keep

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/internal/block"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
)

// unsettled opens a store as a node does that has just been started.
func unsettled(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Open looks at no item: one is found by its record, whatever the catalog has, and
// Settle finds the others.
func TestOpenLooksAtNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	var things []*thing
	for i := range byte(3) {
		things = append(things, makeThing(t, i, 50_000))
		put(t, s, things[i])
	}
	was := s.Usage()
	closing(t, s)
	for _, name := range catalogFiles() {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(dir, infoDir, things[2].Path.Hash), 100); err != nil {
		t.Fatal(err)
	}
	s = unsettled(t, dir, Options{})
	defer closing(t, s)
	if u := s.Usage(); u.Items != 0 || u.ItemBytes != 0 || len(s.known) != 0 {
		t.Errorf("Open has looked at items: %+v, %d known", u, len(s.known))
	}
	kept(t, s, things[0])
	if n := served(t, s.Blocks(nil), things[1]); n != len(things[1].nodes) {
		t.Errorf("%d blocks of %d", n, len(things[1].nodes))
	}
	l := s.Library(nil, "")
	come := l.Changed()
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if u := s.Usage(); u.Items != 2 || u.ItemBytes == 0 || u.ItemBytes >= was.ItemBytes {
		t.Errorf("%+v, and there were %+v", u, was)
	}
	if got := listed(t, l); len(got) != 2 || !changed(come) {
		t.Errorf("%d items in the library", len(got))
	}
	if i, err := s.ByNarHash(things[1].NarHash); err != nil || i.Path != things[1].Path {
		t.Errorf("%+v, %v", i, err)
	}
	if f := faults(t, dir, CheckOptions{}); f != "" {
		t.Error(f)
	}
}

// An item that is not whole goes when somebody asks for it, before it is settled.
func TestBrokenGoesWhenAsked(t *testing.T) {
	for _, breaks := range []func(record, nar string) error{
		func(record, _ string) error { return os.Truncate(record, 100) },
		func(_, nar string) error { return os.Truncate(nar, 100) },
		func(_, nar string) error { return os.Remove(nar) },
	} {
		dir := t.TempDir()
		s := open(t, dir, Options{})
		x := makeThing(t, 0, 50_000)
		put(t, s, x)
		closing(t, s)
		if err := breaks(s.record(x.Path.Hash), s.path(narName("zstd", x.Path.Base()))); err != nil {
			t.Fatal(err)
		}
		s = unsettled(t, dir, Options{})
		if _, err := s.Get(x.Path.Hash); err == nil || s.Usage().Items != 0 {
			t.Errorf("%v, %+v", err, s.Usage())
		}
		closing(t, s)
		if got := files(t, dir); len(got) != 0 {
			t.Errorf("left %q", got)
		}
	}
}

// An item whose nar somebody else has removed since it was first asked for goes when
// the nar is wanted.
func TestNarGoneMeanwhile(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	x, other := makeThing(t, 0, 1000), makeThing(t, 1, 1000)
	put(t, s, x)
	put(t, s, other)
	kept(t, s, x)
	if err := os.Remove(s.path(narName(x.Method, x.Path.Base()))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(x.Path.Hash); !errors.Is(err, ErrNone) {
		t.Errorf("opened: %v", err)
	}
	if _, err := s.Get(x.Path.Hash); !errors.Is(err, ErrNone) {
		t.Errorf("after that: %v", err)
	}
	if u := s.Usage(); u.Items != 1 {
		t.Errorf("%+v", u)
	}
	kept(t, s, other)
	put(t, s, x)
	kept(t, s, x)
}

// What a crash has left in the place of an item is in nobody's way, and what is in
// the making is not taken for it.
func TestUnsettled(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	x := makeThing(t, 0, 50_000)
	twin := x.twin(t, 1)
	put(t, s, x)
	closing(t, s)
	s = unsettled(t, dir, Options{})
	defer closing(t, s)
	young, old := filepath.Join(dir, infoDir, durable.TempPrefix+"young"), filepath.Join(dir, infoDir, durable.TempPrefix+"old")
	for name, at := range map[string]time.Time{
		young: s.begun, old: s.begun.Add(-time.Second), s.path(narName("zstd", twin.Path.Base())): s.begun.Add(-time.Second),
	} {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	f, err := s.Open(x.Path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Also(t.Context(), Item{Path: twin.Path, Server: twin.Server, Narinfo: twin.Narinfo}); err != nil {
		t.Error(err)
	}
	closing(t, f)
	kept(t, s, twin)
	if err := s.Settle(t.Context()); err != nil {
		t.Error(err)
	}
	if !folder.Exists(young) || folder.Exists(old) {
		t.Errorf("what is in the making is there: %v, what was left: %v", folder.Exists(young), folder.Exists(old))
	}
	if u := s.Usage(); u.Items != 2 {
		t.Errorf("%+v", u)
	}
}

// A catalog that is none is made anew, and the quota holds by what it says.
func TestCatalogIsMadeAnew(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, Options{Now: c.now})
	things := []*thing{makeThing(t, 0, 500_000), makeThing(t, 1, 500_000), makeThing(t, 2, 500_000)}
	for _, x := range things {
		put(t, s, x)
		c.add(time.Minute)
	}
	kept(t, s, things[0])
	closing(t, s)
	if err := os.WriteFile(filepath.Join(dir, catalogFile), []byte(strings.Repeat("no database ", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{Now: c.now, Quota: 1_500_000})
	defer closing(t, s)
	var got []int
	for i, x := range things {
		if _, err := s.Get(x.Path.Hash); err == nil {
			got = append(got, i)
		}
	}
	// The records have the time of a request to an hour only.
	if u := s.Usage(); u.Items != 2 || len(got) != 2 || !slices.Contains(got, 2) || u.Total() > u.Quota {
		t.Errorf("kept %d: %+v", got, u)
	}
}

// However many items are asked for, few are remembered, and those that are in use
// among them.
func TestKnownIsBounded(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	x := makeThing(t, 0, 1000)
	put(t, s, x)
	f, err := s.Open(x.Path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, f)
	for i := range 3 * maxKnown {
		p := x.Path
		p.Hash = fmt.Sprintf("%032d", i)
		s.know(&entry{path: p}, s.begins)
		if len(s.known) > maxKnown {
			t.Fatalf("%d are remembered", len(s.known))
		}
	}
	if s.known[x.Path.Hash] == nil {
		t.Error("what is being read was forgotten")
	}
	if e := (&entry{path: x.Path}); s.know(e, s.begins-1) != nil || s.known[x.Path.Hash] == e {
		t.Error("an entry is remembered that was read before an item came or went")
	}
}

// The queries of requests and of evictions read no more rows than they give.
func TestCatalogPlans(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	for query, want := range map[string]string{
		byNarQuery:  "SEARCH items USING COVERING INDEX nars (nar=?)",
		pageQuery:   "SEARCH items USING PRIMARY KEY (hash>?)",
		judgedQuery: "SEARCH items USING PRIMARY KEY (hash>?); SEARCH verdicts USING PRIMARY KEY (hash=?) LEFT-JOIN",
		aheadQuery:  "SEARCH items USING COVERING INDEX turns (ahead=? AND used<?)",
		oldestQuery: "MERGE (UNION ALL); LEFT; SEARCH items USING COVERING INDEX turns (ahead=?); RIGHT; SEARCH items USING COVERING INDEX turns (ahead=? AND used>?)",
	} {
		args := []any{0, 1}[:strings.Count(query, "?")]
		rows, err := s.cards.db.Query("EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for rows.Next() {
			var id, parent, unused int
			var line string
			if err := rows.Scan(&id, &parent, &unused, &line); err != nil {
				t.Fatal(err)
			}
			got = append(got, line)
		}
		closing(t, rows)
		if plan := strings.Join(got, "; "); plan != want {
			t.Errorf("%s\n%s", query, plan)
		}
	}
}

// Totals follow rows that come, are replaced and go, and pages have all of them.
func TestCatalogTotals(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	c, ctx := s.cards, t.Context()
	const n = 2*pageCards + 3
	var cards []card
	for i := range n {
		cards = append(cards, card{hash: fmt.Sprintf("%05d", i), nar: int64(i % 7), size: 10, used: int64(n - i), ahead: i%2 == 0})
	}
	want := func(items int, bytes int64) {
		t.Helper()
		if i, b, err := c.totals(); i != items || b != bytes || err != nil {
			t.Errorf("%d items of %d bytes, %v", i, b, err)
		}
	}
	for range 2 {
		if err := c.put(ctx, cards...); err != nil {
			t.Fatal(err)
		}
		want(n, 10*n)
	}
	got, after := 0, ""
	for {
		page, err := c.page(ctx, after)
		if err != nil {
			t.Fatal(err)
		}
		got += len(page)
		if len(page) < pageCards {
			break
		}
		after = page[len(page)-1].hash
	}
	if got != n {
		t.Errorf("%d rows in pages", got)
	}
	// Ahead of all else what came by time 100 and nobody asked for, else by time.
	last, lateAhead := int64(0), false
	all, err := c.oldest(ctx, 100, func(_ string, used int64, ahead bool) bool {
		if ahead && used > 100 || !ahead && lateAhead && used < last {
			t.Fatalf("%d, ahead %v, after %d", used, ahead, last)
		}
		if !ahead && !lateAhead {
			last, lateAhead = 0, true
		}
		if used < last {
			t.Fatalf("%d after %d", used, last)
		}
		last = used
		return true
	})
	if err != nil || !all {
		t.Error(all, err)
	}
	if all, err := c.oldest(ctx, 0, func(string, int64, bool) bool { return false }); all || err != nil {
		t.Error(all, err)
	}
	if err := c.remove(ctx, "00001"); err != nil {
		t.Fatal(err)
	}
	want(n-1, 10*(n-1))
	if err := c.note(ctx, map[string]int64{"00002": 1000, "gone": 1}); err != nil {
		t.Fatal(err)
	}
	x, ok, err := c.card(ctx, "00002")
	if err != nil || !ok || x.used != 1000 || x.ahead {
		t.Errorf("%+v, %v, %v", x, ok, err)
	}
	if _, ok, err := c.card(ctx, "00001"); ok || err != nil {
		t.Error(ok, err)
	}
	for _, err := range []error{c.put(ctx), s.Library(nil, "").Each(ctx, func(block.Shared) error { return nil })} {
		if err != nil {
			t.Error(err)
		}
	}
}

// While a store settles, again and again, and others come and go, no item is said to
// be missing, and nothing of one is taken for what a crash has left.
func TestSettleBeside(t *testing.T) {
	s := open(t, memory(t), Options{})
	defer closing(t, s)
	var things []*thing
	for i := range byte(30) {
		things = append(things, makeThing(t, i, 2000))
		put(t, s, things[i])
	}
	comes := makeThing(t, 31, 2000)
	done := make(chan struct{})
	var beside sync.WaitGroup
	beside.Go(func() {
		defer close(done)
		for k := range 10 {
			for i := k % 3; i < len(things); i += 3 { // which the catalog has lost
				if err := s.cards.remove(t.Context(), things[i].Path.Hash); err != nil {
					t.Error(err)
				}
			}
			stray := s.path(narName("gzip", things[k].Path.Base()))
			if err := os.WriteFile(stray, nil, 0o644); err != nil {
				t.Error(err)
			}
			if err := s.Settle(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	beside.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			f, err := s.Open(things[0].Path.Hash)
			if err != nil {
				t.Error(err)
				return
			}
			also := comes.Item
			also.Narinfo = comes.Narinfo
			if err := f.Also(t.Context(), also); err != nil {
				t.Error(err)
			}
			closing(t, f)
			if err := s.Remove(t.Context(), comes.Path.Hash); err != nil {
				t.Error(err)
			}
		}
	})
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		for _, x := range things {
			s.mu.Lock()
			delete(s.known, x.Path.Hash) // as when it was forgotten
			s.mu.Unlock()
			if _, err := s.Get(x.Path.Hash); err != nil {
				t.Errorf("%s: %v", x.Path, err)
			}
		}
	}
	beside.Wait()
	if err := s.Settle(t.Context()); err != nil {
		t.Error(err)
	}
	for _, x := range things {
		if stray := s.path(narName("gzip", x.Path.Base())); folder.Exists(stray) {
			t.Errorf("%s is left", stray)
		}
		kept(t, s, x)
		if n := served(t, s.Blocks(nil), x); n != len(x.nodes) {
			t.Errorf("%s: %d blocks of %d", x.Path, n, len(x.nodes))
		}
	}
	if u := s.Usage(); u.Items != len(things) {
		t.Errorf("%+v", u)
	}
	if f := faults(t, s.dir, CheckOptions{}); strings.Contains(f, ":") {
		t.Error(f)
	}
}
