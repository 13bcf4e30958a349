package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

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
	if _, err := exec.LookPath("wrk"); err != nil {
		return nil, fmt.Errorf("apt-get install wrk: %w", err)
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
	script, err := s.wrkScript(paths)
	if err != nil {
		return nil, err
	}
	rows := []struct {
		what     string
		args     []string
		baked    bool
		ours, by series
	}{
		{what: "baked", args: []string{"--cache=/var/cache/narinfos", "--compression=zstd:1"}, baked: true},
		{what: "signed on request", args: []string{"--compression=zstd:1"}},
	}
	for r := range rows {
		row := &rows[r]
		var servers []*server
		for _, program := range []string{"ersatz", "guix"} {
			args := append([]string(nil), row.args...)
			if row.baked {
				args[0] += "-" + program
			}
			server, err := serve(ctx, s.origin, program, args...)
			if err != nil {
				return nil, err
			}
			defer server.Stop()
			servers = append(servers, server)
			if row.baked {
				if err := bakeAll(ctx, server.client, server.URL, paths); err != nil {
					return nil, err
				}
			}
		}
		for n := range s.o.Runs + 1 {
			for k, to := range []*series{&row.ours, &row.by} {
				rate, err := wrk(ctx, script, servers[k].URL)
				if err != nil {
					return nil, err
				}
				s.o.Log.InfoContext(ctx, "narinfos", slog.String("what", row.what), slog.Int("server", k), slog.Float64("per_second", rate))
				if n > 0 {
					*to = append(*to, rate)
				}
			}
		}
	}
	t := Table{
		Title: "Narinfos per second",
		Note:  fmt.Sprintf("`wrk -t1 -c8`, %d different items, 3 s each; wrk shares the machine.", queried),
		Head:  compareHead,
	}
	for _, row := range rows {
		t.compare(row.what, perSecond, row.ours, row.by)
	}
	return []Table{t}, nil
}

// wrkScript writes the script that makes wrk ask for all items in turn.
func (s *site) wrkScript(paths []storepath.Path) (string, error) {
	var b strings.Builder
	b.WriteString("local paths = {\n")
	for _, p := range paths {
		fmt.Fprintf(&b, "  \"/%s.narinfo\",\n", p.Hash)
	}
	b.WriteString("}\nlocal n = 0\nfunction request()\n  n = n % #paths + 1\n  return wrk.format(\"GET\", paths[n])\nend\n")
	name := filepath.Join(s.dir, "narinfos.lua")
	return name, os.WriteFile(name, []byte(b.String()), 0o644)
}

// wrk returns the requests per second that a server answers.
func wrk(ctx context.Context, script, url string) (float64, error) {
	out, err := exec.CommandContext(ctx, "wrk", "-t1", "-c8", "-d3s", "-s", script, url).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	return parseWrk(string(out))
}

var (
	wrkRate   = regexp.MustCompile(`(?m)^Requests/sec:\s+([0-9.]+)$`)
	wrkFaults = regexp.MustCompile(`(?m)^\s+(Non-2xx or 3xx responses:.*|Socket errors:.*)$`)
)

// parseWrk reads what wrk prints. Answers that are no success do not count.
func parseWrk(out string) (float64, error) {
	if m := wrkFaults.FindStringSubmatch(out); m != nil {
		return 0, fmt.Errorf("wrk: %s", m[1])
	}
	m := wrkRate.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("wrk: no rate in %q", out)
	}
	return strconv.ParseFloat(m[1], 64)
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
