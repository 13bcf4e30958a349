package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"

	"ersatz/internal/realguix"
	"ersatz/storepath"
)

func newClient() *http.Client { return &http.Client{} }

// closing ends what was started, and returns the errors of the work and of
// that.
func closing(err error, closer func() error) error { return errors.Join(err, closer()) }

// narinfoGroup measures requests per second, by wrk with one thread and eight
// connections.
func narinfoGroup(ctx context.Context, o Options) ([]Table, error) {
	if !o.have("wrk") {
		return nil, nil
	}
	s, err := newSite(ctx, o)
	if err != nil {
		return nil, err
	}
	t, err := s.narinfos(ctx)
	return t, closing(err, s.close)
}

func (s *site) narinfos(ctx context.Context) ([]Table, error) {
	paths, err := s.tiny(ctx, queried)
	if err != nil {
		return nil, err
	}
	script, err := wrkScript(s.dir, "narinfos.lua", narinfoPaths(paths))
	if err != nil {
		return nil, err
	}
	rows := []struct {
		what  string
		args  []string
		cache string // in the machine; "": there is none
		sides [3]*side
	}{
		{what: "baked", args: []string{"--compression=zstd:1"}, cache: "/var/cache/narinfos"},
		{what: "signed on request, asked again", args: []string{"--compression=zstd:1"}},
	}
	for r := range rows {
		row := &rows[r]
		for k, program := range []string{"ersatz", "guix"} {
			args := row.args
			if row.cache != "" {
				args = append(args, "--cache="+row.cache+"-"+program)
			}
			server, err := serve(ctx, s.origin, program, args...)
			if err != nil {
				return nil, err
			}
			defer server.Stop()
			if row.cache != "" {
				if err := bakeAll(ctx, server.client, server.URL, paths); err != nil {
					return nil, err
				}
			}
			row.sides[k] = wrkSide(program, s.o, server, "", []string{"-c8", "-s", script})
		}
		sides := row.sides[:2]
		if row.cache != "" && s.o.have("nginx") {
			server, err := nginx(ctx, s.dir, s.origin.Path(row.cache+"-ersatz"))
			if err != nil {
				return nil, err
			}
			defer server.Stop()
			row.sides[2] = wrkSide("nginx", s.o, server, "", []string{"-c8", "-s", script})
			sides = row.sides[:]
		}
		if err := turns(ctx, s.o, sides...); err != nil {
			return nil, err
		}
	}
	first, err := s.firstTimes(ctx, "ersatz", "guix")
	if err != nil {
		return nil, err
	}
	if err := turns(ctx, s.o, first...); err != nil {
		return nil, err
	}
	t := Table{
		Title: "Narinfos per second",
		Note: fmt.Sprintf("`wrk -t1 -c8`, %d different items, %s each; wrk shares the machine. nginx serves the narinfos that ersatz has baked. "+
			"What ersatz has signed it keeps in memory, and asks the store each second whether it still holds: asked again, each is asked for more than once a second. "+
			"For the first time: a server that has just started is asked for each of many items with %d references once, for %d s.",
			queried, s.o.wrkTime(), firstRefs, firstSeconds),
		Peer: "guix publish", Limit: "nginx",
	}
	for _, row := range rows {
		var limit series
		if row.sides[2] != nil {
			limit = row.sides[2].rate
		}
		t.versus(row.what, perSecond, row.sides[0].rate, row.sides[1].rate, limit)
	}
	t.versus("signed for the first time", perSecond, first[0].rate, first[1].rate, nil)
	t.versus("the server's CPU for one", microseconds, first[0].cpu, first[1].cpu, nil)
	return []Table{t}, nil
}

func narinfoPaths(paths []storepath.Path) (all []string) {
	for _, p := range paths {
		all = append(all, "/"+p.Hash+".narinfo")
	}
	return all
}

var (
	wrkRate   = regexp.MustCompile(`(?m)^Requests/sec:\s+([0-9.]+)$`)
	wrkCount  = regexp.MustCompile(`(?m)^\s+([0-9]+) requests in `)
	wrkFaults = regexp.MustCompile(`(?m)^\s+(Non-2xx or 3xx responses:.*|Socket errors:.*)$`)
)

// parseWrk reads what wrk prints: requests per second, and how many there were.
// Answers that are no success do not count.
func parseWrk(out string) (rate, n float64, err error) {
	if m := wrkFaults.FindStringSubmatch(out); m != nil {
		return 0, 0, fmt.Errorf("wrk: %s", m[1])
	}
	perSecond, count := wrkRate.FindStringSubmatch(out), wrkCount.FindStringSubmatch(out)
	if perSecond == nil || count == nil {
		return 0, 0, fmt.Errorf("wrk: no rate in %q", out)
	}
	rate, err = strconv.ParseFloat(perSecond[1], 64)
	if err != nil {
		return 0, 0, err
	}
	n, err = strconv.ParseFloat(count[1], 64)
	return rate, n, err
}

// bakeGroup measures how an item is made ready to be served.
func bakeGroup(ctx context.Context, o Options) ([]Table, error) {
	s, err := newSite(ctx, o)
	if err != nil {
		return nil, err
	}
	t, err := s.bakes(ctx)
	return t, closing(err, s.close)
}

func (s *site) bakes(ctx context.Context) ([]Table, error) {
	i, err := s.add(ctx, "some", "", 'd', func(path string) error {
		return realguix.MakePackage(path, 4, 600, 12_000_000)
	})
	if err != nil {
		return nil, err
	}
	var us, them usages
	var size [2]series
	for n := range s.o.Runs {
		for k, side := range []struct {
			program string
			to      *usages
		}{{"ersatz", &us}, {"guix", &them}} {
			u, bytes, err := s.bakeOnce(ctx, side.program, fmt.Sprintf("/var/cache/bake-%d", n), "zstd:19", i)
			if err != nil {
				return nil, err
			}
			side.to.add(u)
			size[k] = append(size[k], float64(bytes))
		}
	}
	t := Table{
		Title: "Baking at zstd:19",
		Note: fmt.Sprintf("A nar of %s MB in 600 files, small so that stock Guix is done in time; one worker, empty cache. "+
			"Both compress by libzstd, which takes nearly all of the time, so neither can be ahead; "+
			"ersatz also makes the URN and the index of its blocks.", number(float64(i.nar.Size)/1e6)),
		Head: compareHead,
	}
	t.compare("wall", seconds, us.wall, them.wall)
	t.compare("CPU", seconds, us.cpu, them.cpu)
	t.compare("peak memory of the server", mebibytes, us.peak, them.peak)
	t.compare("size", unit{name: "MB", scale: 1e-6}, size[0], size[1])
	return []Table{t}, nil
}

// bakeOnce has a new server bake an item into an empty cache, and returns what
// that took and the size of the compressed nar.
func (s *site) bakeOnce(ctx context.Context, program, cache, method string, i item) (usage, uint64, error) {
	server, err := serve(ctx, s.origin, program, "--cache="+cache+"-"+program, "--compression="+method, "--workers=1")
	if err != nil {
		return usage{}, 0, err
	}
	defer server.Stop()
	return bakeBy(ctx, server, i)
}
