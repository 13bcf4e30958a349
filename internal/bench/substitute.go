package bench

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"ersatz/internal/realguix"
	"ersatz/nar"
	"ersatz/storepath"
)

var compareHead = []string{"what", "ersatz", "stock Guix", "ersatz ahead"}

// substituteGroup measures the whole way of an item: narinfo, fetching,
// decompressing, hashing, restoring.
func substituteGroup(ctx context.Context, o Options) ([]Table, error) {
	s, err := newSite(ctx, o)
	if err != nil {
		return nil, err
	}
	t, err := s.substitutes(ctx)
	return t, closing(err, s.close)
}

// route is a way from a server to a store.
type route struct {
	what     string
	url      string
	machine  *realguix.Machine
	ours, by usages
}

func (s *site) substitutes(ctx context.Context) ([]Table, error) {
	many, err := s.addMany(ctx)
	if err != nil {
		return nil, err
	}
	big, err := s.addBig(ctx)
	if err != nil {
		return nil, err
	}
	items := []item{many, big}
	blocks, err := serve(ctx, s.origin, "ersatz", "--cache=/var/cache/ersatz", "--compression=zstd:19", "--workers=2")
	if err != nil {
		return nil, err
	}
	defer blocks.Stop()
	s.o.Log.InfoContext(ctx, "baking at zstd:19")
	if err := bakeAll(ctx, blocks.client, blocks.URL, []storepath.Path{many.Path, big.Path}); err != nil {
		return nil, err
	}
	zstd, none := map[string][]byte{}, map[string][]byte{}
	for _, i := range items {
		n, err := bake(ctx, blocks.client, blocks.URL, i.Path)
		if err != nil {
			return nil, err
		}
		if zstd[i.Path.Name], err = os.ReadFile(s.origin.Path("/var/cache/ersatz/" + n.Nars[0].URL)); err != nil {
			return nil, err
		}
		var plain bytes.Buffer
		if _, err := nar.Dump(&plain, s.origin.Path(i.Path.String())); err != nil {
			return nil, err
		}
		none[i.Path.Name] = plain.Bytes()
	}
	zstdURL, err := s.static(zstd, "zstd", items...)
	if err != nil {
		return nil, err
	}
	noneURL, err := s.static(none, "none", items...)
	if err != nil {
		return nil, err
	}
	disk, err := s.onDisk()
	if err != nil {
		return nil, err
	}
	var tables []Table
	for _, i := range items {
		routes := []*route{
			{what: "zstd:19, ersatz by blocks", url: blocks.URL, machine: s.client},
			{what: "zstd:19, plain nar", url: zstdURL, machine: s.client},
			{what: "none, plain nar", url: noneURL, machine: s.client},
		}
		if disk != nil {
			routes = append(routes, &route{what: "zstd:19, ersatz by blocks, store on disk", url: blocks.URL, machine: disk})
		}
		t, err := s.compareRoutes(ctx, i, routes)
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// onDisk returns a machine whose store is on a disk, nil if there is none.
func (s *site) onDisk() (*realguix.Machine, error) {
	if s.o.Disk == "" {
		return nil, nil
	}
	dir, err := os.MkdirTemp(s.o.Disk, "ersatz-bench-")
	if err != nil {
		return nil, err
	}
	s.cleanup = append(s.cleanup, func() error { return os.RemoveAll(dir) })
	s.disk, err = s.machine(realguix.Options{Gnu: dir})
	return s.disk, err
}

// compareRoutes installs an item by each route in turn.
func (s *site) compareRoutes(ctx context.Context, i item, routes []*route) (Table, error) {
	// Once beforehand, for the caches of narinfos and of the disk.
	for n := range s.o.Runs + 1 {
		for _, r := range routes {
			a, err := s.install(ctx, ours(r.machine), r.url, i)
			if err != nil {
				return Table{}, err
			}
			b, err := s.install(ctx, stock(r.machine), r.url, i)
			if err != nil {
				return Table{}, err
			}
			s.o.Log.InfoContext(ctx, "installed", slog.String("item", i.Path.Name), slog.String("route", r.what),
				slog.Duration("ersatz", a.wall), slog.Duration("guix", b.wall))
			if n > 0 {
				r.ours.add(a)
				r.by.add(b)
			}
		}
	}
	t := Table{
		Title: fmt.Sprintf("Substituting `%s`: %s", i.Path.Name, i.what),
		Note: "From the start of the substituter to its reply to guix-daemon; stock Guix takes the nar, since it knows no blocks. " +
			"CPU is the process's own, user and system; the server has none in it. On disk nothing is removed meanwhile.",
		Head: compareHead,
	}
	for _, r := range routes {
		t.compare(r.what+": wall", seconds, r.ours.wall, r.by.wall)
		t.compare(r.what+": CPU", seconds, r.ours.cpu, r.by.cpu)
		t.compare(r.what+": peak memory", mebibytes, r.ours.peak, r.by.peak)
	}
	return t, nil
}

// queryGroup measures the daemon's question which of 500 items can be had.
func queryGroup(ctx context.Context, o Options) ([]Table, error) {
	s, err := newSite(ctx, o)
	if err != nil {
		return nil, err
	}
	t, err := s.queries(ctx)
	return t, closing(err, s.close)
}

func (s *site) queries(ctx context.Context) ([]Table, error) {
	paths, err := s.tiny(ctx, queried)
	if err != nil {
		return nil, err
	}
	server, err := serve(ctx, s.origin, "ersatz", "--cache=/var/cache/ersatz", "--compression=zstd:1")
	if err != nil {
		return nil, err
	}
	defer server.Stop()
	if err := bakeAll(ctx, server.client, server.URL, paths); err != nil {
		return nil, err
	}
	var request strings.Builder
	request.WriteString("info ")
	for _, p := range paths {
		request.WriteString(p.String() + " ")
	}
	request.WriteString("\n")
	kinds := []struct {
		what     string
		warm     bool
		ours, by usages
	}{{what: "cold"}, {what: "warm", warm: true}}
	for range s.o.Runs {
		for k := range kinds {
			kind := &kinds[k]
			for _, side := range []struct {
				by substituter
				to *usages
			}{{ours(s.client), &kind.ours}, {stock(s.client), &kind.by}} {
				if !kind.warm {
					if err := s.forget(side.by.name); err != nil {
						return nil, err
					}
				}
				u, lines, err := side.by.ask(ctx, "--query", options(server.URL), request.String(), endOfInfo(len(paths)))
				if err != nil {
					return nil, err
				}
				if len(lines) < queried*5 {
					return nil, fmt.Errorf("%s: %d lines about %d items", side.by.name, len(lines), queried)
				}
				side.to.add(u)
			}
		}
	}
	t := Table{
		Title: fmt.Sprintf("`--query` of %d paths", queried),
		Note:  "One `info` request, both from the same `ersatz publish` with all narinfos baked; cold: nothing is known of the server; warm: all narinfos are in the client's cache.",
		Head:  compareHead,
	}
	for _, k := range kinds {
		t.compare(k.what+": wall", milliseconds, k.ours.wall, k.by.wall)
		t.compare(k.what+": CPU", milliseconds, k.ours.cpu, k.by.cpu)
		t.compare(k.what+": peak memory", mebibytes, k.ours.peak, k.by.peak)
	}
	return []Table{t}, nil
}

// endOfInfo returns a function that recognizes the last line of a reply about
// n items without references or derivers: each has a path, an empty line for
// the deriver, two numbers and the sizes; an empty line ends it all.
func endOfInfo(n int) func(string) bool {
	const perItem = 5
	seen := 0
	return func(line string) bool {
		seen++
		return line == "" && seen == n*perItem+1 || seen > n*perItem+1
	}
}

// forget removes what a program remembers of servers' answers. The other's
// cache stays.
func (s *site) forget(program string) error {
	dir := map[string]string{"ersatz": "/var/lib/ersatz", "guix": "/var/guix/substitute"}[program]
	if err := os.RemoveAll(s.client.Path(dir)); err != nil {
		return err
	}
	return os.MkdirAll(s.client.Path(dir), 0o755)
}
