package bench

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ersatz/guixsig"
	"ersatz/narinfo"
)

// TestServedFolder: what is served is what a server has after it has baked, and
// nginx gives it from there.
func TestServedFolder(t *testing.T) {
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	const size = 100_000
	dir := t.TempDir()
	root := filepath.Join(dir, "cache")
	paths, nar, err := servedFolder(root, key, size)
	if err != nil || len(paths) != queried {
		t.Fatalf("%d narinfos, %v", len(paths), err)
	}
	text, err := os.ReadFile(root + paths[queried-1])
	if err != nil {
		t.Fatal(err)
	}
	n, err := narinfo.Parse(text)
	if err != nil || len(n.Nars) != 1 || "/"+n.Nars[0].URL != nar {
		t.Errorf("%+v, %v, not of %s", n, err, nar)
	}
	if fi, err := os.Stat(root + nar); err != nil || fi.Size() != size {
		t.Errorf("%v, %v", fi, err)
	}
	script, err := wrkScript(dir, "narinfos.lua", paths)
	if err != nil {
		t.Fatal(err)
	}
	if lua, err := os.ReadFile(script); err != nil || strings.Count(string(lua), ".narinfo\",\n") != queried {
		t.Errorf("%s, %v", lua, err)
	}
	if _, err := exec.LookPath("nginx"); err != nil {
		t.Skip("no nginx (Debian package nginx-light)")
	}
	s, err := nginx(t.Context(), dir, root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	defer s.client.CloseIdleConnections()
	if got, err := fetch(t.Context(), s.client, s.URL+paths[queried-1]); err != nil || !bytes.Equal(got, text) {
		t.Errorf("nginx: %q, %v", got, err)
	}
	if used, err := cpu(s.pid); err != nil || used > time.Minute {
		t.Errorf("its worker: %v, %v", used, err)
	}
	if res, err := s.client.Head(s.URL + nar); err != nil || res.StatusCode != http.StatusOK || res.ContentLength != size {
		t.Errorf("nginx: %v, %v", res, err)
	}
}

func TestScaled(t *testing.T) {
	if got := scaled(series{1, 2}, 3); len(got) != 2 || got[0] != 3 || got[1] != 6 {
		t.Errorf("%v", got)
	}
	if got := scaled(nil, 3); got != nil {
		t.Errorf("%v, where nothing was measured", got)
	}
	if a, b := (Options{Quick: true}).wrkTime(), (Options{}).wrkTime(); a >= b {
		t.Errorf("quick: %v, else %v", a, b)
	}
}
