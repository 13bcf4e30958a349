package bench

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ersatz/internal/bench/netlab"
	"ersatz/internal/realguix"
)

// netOptions has a fresh build of ersatz for short scenarios, or skips the
// test.
func netOptions(t *testing.T) NetOptions {
	t.Helper()
	if err := netlab.Missing(); err != nil {
		t.Skip(err)
	}
	root := os.Getenv(realguix.EnvRoot)
	if root == "" {
		t.Skipf("%s does not name a folder with a Guix", realguix.EnvRoot)
	}
	programs := t.TempDir()
	if out, err := exec.Command("go", "build", "-tags", "netgo,osusergo,disable_libutp,nosqlite,noboltdb", "-o", programs, "ersatz/cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return NetOptions{Root: root, Ersatz: filepath.Join(programs, "ersatz"), Wrapper: "../../packaging/ersatz-guix", Short: true}
}

// TestNetScenarios runs all of them with little: each checks what comes of it.
func TestNetScenarios(t *testing.T) {
	o := netOptions(t)
	for _, name := range NetNames() {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			text, err := RunNet(ctx, name, "", o)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(text, "NaN") || strings.Contains(text, "| – |") || strings.Count(text, "\n|") < 3 {
				t.Errorf("figures are missing:\n%s", text)
			}
		})
	}
	if _, err := RunNet(t.Context(), "none", "", o); err == nil {
		t.Error("there is a scenario without a name")
	}
}

// TestInstallChecks wants an error for an item that is another one, and for one
// that nobody has.
func TestInstallChecks(t *testing.T) {
	n, err := newNetwork(t.Context(), netOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.close(); err != nil {
			t.Error(err)
		}
	}()
	from, items, err := n.origin(t.Context(), netlab.Link{}, func(s *shelf) ([]item, error) { return closureOf(t.Context(), s, 3) })
	if err != nil {
		t.Fatal(err)
	}
	client, err := n.host(t.Context(), "client", netlab.Link{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := n.install(t.Context(), client, aloneWay(), from, items)
	if err != nil || got.wall <= 0 || got.sent < items[0].nar.Size/4 || got.sent > 1<<20 {
		t.Errorf("%+v, %v", got, err)
	}
	other := append([]item(nil), items...)
	other[0].nar.Size++
	if _, err := n.install(t.Context(), client, aloneWay(), from, other); err == nil {
		t.Error("an item that is another one counts as installed")
	}
	from.server.Stop()
	if _, err := n.install(t.Context(), client, stockWay(), from, items); err == nil {
		t.Error("an item from nowhere counts as installed")
	}
}
