package bench

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"ersatz/internal/realguix"
)

// bakeBy has a server bake an item, and returns what that took and the size of
// the compressed nar.
func bakeBy(ctx context.Context, server *server, i item) (usage, uint64, error) {
	before, err := cpuWithChildren(server.pid)
	if err != nil {
		return usage{}, 0, err
	}
	memory := watchMemory(server.pid)
	begin := time.Now()
	n, err := bake(ctx, server.client, server.URL, i.Path)
	if err != nil {
		return usage{}, 0, err
	}
	u := usage{wall: time.Since(begin)}
	after, err := cpuWithChildren(server.pid)
	if err != nil {
		return usage{}, 0, err
	}
	u.cpu = after - before
	u.peak, err = memory()
	return u, n.Nars[0].FileSize, err
}

// memoryGroup measures whether memory depends on the size of the nar.
func memoryGroup(ctx context.Context, o Options) ([]Table, error) {
	s, err := newSite(ctx, o)
	if err != nil {
		return nil, err
	}
	t, err := s.memory(ctx)
	return t, closing(err, s.close)
}

func (s *site) memory(ctx context.Context) ([]Table, error) {
	big, err := s.addBig(ctx)
	if err != nil {
		return nil, err
	}
	huge, err := s.add(ctx, "huge", "one file of 1 GiB", 'f', func(path string) error {
		return realguix.MakeFile(path, 5, 1024*mib)
	})
	if err != nil {
		return nil, err
	}
	t := Table{
		Title: "Peak memory whatever the size of the nar",
		Note: "Resident memory of the whole process, one run each; of publish with the processes that it bakes by, so that the pages of the program, some 34 MiB which memory has once, count twice. The limit is 64 MiB, the window and tables of the compressor aside: " +
			"some 190 MiB of libzstd at zstd:19, where an item of 100 MiB is cut into jobs, some 17 MiB at zstd:3; the difference to the rows without compression. " +
			"1 GiB at zstd:19 would take ten minutes and is left out.",
		Head: []string{"what", "100 MiB", "1 GiB"},
	}
	cells := map[string][]string{}
	var order []string
	note := func(what string, bytes int64) {
		if _, ok := cells[what]; !ok {
			order = append(order, what)
		}
		cells[what] = append(cells[what], mebibytes.cell(series{float64(bytes)}))
	}
	for _, i := range []item{big, huge} {
		methods := []string{"none", "zstd:3", "zstd:19"}
		if i.Path == huge.Path {
			methods = methods[:2] // ten minutes at zstd:19
		}
		for _, method := range methods {
			if err := s.memoryOf(ctx, i, method, note); err != nil {
				return nil, err
			}
		}
	}
	for _, what := range order {
		row := append([]string{what}, cells[what]...)
		for len(row) < len(t.Head) {
			row = append(row, "not run")
		}
		t.Rows = append(t.Rows, row)
	}
	return []Table{t}, nil
}

// memoryOf bakes, serves and substitutes an item.
func (s *site) memoryOf(ctx context.Context, i item, method string, note func(string, int64)) error {
	s.o.Log.InfoContext(ctx, "memory", slog.String("item", i.Path.Name), slog.String("method", method))
	cache := fmt.Sprintf("/var/cache/memory-%s-%s", i.Path.Name, method)
	server, err := serve(ctx, s.origin, "ersatz", "--cache="+cache, "--compression="+method, "--workers=1", "--cache-bypass-threshold=1")
	if err != nil {
		return err
	}
	defer server.Stop()
	u, _, err := bakeBy(ctx, server, i)
	if err != nil {
		return err
	}
	note("publish, baking, "+method, u.peak)
	server.Stop()

	// A server that has not baked: what its allocator keeps is not what
	// serving takes.
	server, err = serve(ctx, s.origin, "ersatz", "--cache="+cache, "--compression="+method)
	if err != nil {
		return err
	}
	defer server.Stop()
	sub, err := s.install(ctx, ours(s.client), server.URL, i)
	if err != nil {
		return err
	}
	serving, err := peak(server.pid)
	if err != nil {
		return err
	}
	note("publish, serving blocks, "+method, serving)
	note("substitute, by blocks, "+method, sub.peak)
	byStock, err := s.install(ctx, stock(s.client), server.URL, i)
	if err != nil {
		return err
	}
	note("stock guix substitute, "+method, byStock.peak)
	return nil
}
