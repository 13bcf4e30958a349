package bench

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ersatz/internal/realguix"
	"ersatz/storepath"
)

// testSite starts a site with a fresh build of ersatz, or skips the test.
func testSite(t *testing.T) (*site, context.Context) {
	t.Helper()
	root := os.Getenv(realguix.EnvRoot)
	if root == "" || os.Getuid() != 0 {
		t.Skipf("not root, or %s does not name a folder with a Guix", realguix.EnvRoot)
	}
	programs := t.TempDir()
	if out, err := exec.Command("go", "build", "-tags", "netgo,osusergo,disable_libutp,nosqlite,noboltdb", "-o", programs, "ersatz/cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	o := Options{Root: root, Ersatz: filepath.Join(programs, "ersatz"), Disk: t.TempDir(), Runs: 1, Log: slog.New(slog.DiscardHandler)}
	s, err := newSite(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
		if entries, err := os.ReadDir(o.Disk); err != nil || len(entries) != 0 {
			t.Errorf("left on the disk: %v, %v", entries, err)
		}
	})
	return s, ctx
}

// TestSiteMeasuresBoth has both programs install a small item by every route.
func TestSiteMeasuresBoth(t *testing.T) {
	s, ctx := testSite(t)
	i, err := s.add(ctx, "small", "small", 'b', func(path string) error {
		return realguix.MakePackage(path, 1, 150, 3*mib)
	})
	if err != nil {
		t.Fatal(err)
	}
	server, err := serve(ctx, s.origin, "ersatz", "--cache=/var/cache/test", "--compression=zstd:1", "--cache-bypass-threshold=1")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	u, size, err := bakeBy(ctx, server, i)
	if err != nil || size == 0 || int64(size) > i.nar.Size || u.wall <= 0 || u.peak < mib {
		t.Errorf("baking: %d bytes of %d, %+v, %v", size, i.nar.Size, u, err)
	}
	disk, err := s.onDisk()
	if err != nil {
		t.Fatal(err)
	}
	routes := []*route{
		{what: "in memory", url: server.URL, machine: s.client},
		{what: "on disk", url: server.URL, machine: disk},
	}
	table, err := s.compareRoutes(ctx, i, routes)
	if err != nil || len(table.Rows) != 6 {
		t.Fatalf("%v, %v", table, err)
	}
	for _, row := range table.Rows {
		if len(row) != 4 || strings.Contains(strings.Join(row, ""), "–") {
			t.Errorf("%q has no figures", row)
		}
	}
	other := i
	other.nar.Size++
	if _, err := s.install(ctx, ours(s.client), server.URL, other); err == nil {
		t.Error("an item that is another one counts as installed")
	}
	if _, err := s.install(ctx, ours(s.client), "http://127.0.0.1:9", i); err == nil {
		t.Error("an item from nowhere counts as installed")
	}
}

// TestSiteTiny checks the items of the questions, and that both caches are
// forgotten one by one.
func TestSiteTiny(t *testing.T) {
	s, ctx := testSite(t)
	paths, err := s.tiny(ctx, 7)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[storepath.Path]bool{}
	for _, p := range paths {
		seen[p] = s.origin.Exists(p)
	}
	if len(seen) != 7 || !seen[paths[6]] {
		t.Errorf("%v", seen)
	}
	server, err := serve(ctx, s.origin, "ersatz", "--cache=/var/cache/test", "--compression=zstd:1")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	if err := bakeAll(ctx, server.client, server.URL, paths); err != nil {
		t.Fatal(err)
	}
	request := "info " + paths[0].String() + " " + paths[1].String() + " \n"
	for _, by := range []substituter{ours(s.client), stock(s.client)} {
		_, lines, err := by.ask(ctx, "--query", options(server.URL), request, endOfInfo(2))
		if err != nil || len(lines) != 11 {
			t.Errorf("%s: %q, %v", by.name, lines, err)
		}
	}
	files := func(dir string) (n int) {
		err := filepath.WalkDir(s.client.Path(dir), func(_ string, e os.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				n++
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		return n
	}
	before := files("/var/guix/substitute")
	if err := s.forget("ersatz"); err != nil {
		t.Fatal(err)
	}
	if a, b := files("/var/lib/ersatz"), files("/var/guix/substitute"); a != 0 || b != before || b == 0 {
		t.Errorf("%d files of ersatz, %d of Guix, before %d", a, b, before)
	}
	script, err := wrkScript(s.dir, "narinfos.lua", narinfoPaths(paths))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(script); err != nil || !strings.Contains(string(text), `"/`+paths[6].Hash+`.narinfo"`) {
		t.Errorf("%s, %v", text, err)
	}
}
