package realguix

import (
	"strings"
	"testing"
)

// TestStock proves the harness: stock publish to stock substitute.
func TestStock(t *testing.T) {
	w := start(t)
	version, err := w.Version(w.ctx)
	w.check(err)
	t.Log(version)
	i := makeItems(t)
	addr := w.addr()
	w.daemon(DaemonOptions{URLs: []string{"http://" + addr}})
	w.check(w.Import(w.ctx, w.key, i.all()...))
	w.wantInstalled(i.many, 0)
	w.serve(addr, "guix", "--cache=/var/cache/publish", "--compression=zstd:3")
	w.baked(addr, i.many)

	w.check(w.Delete(w.ctx, i.many.Path))
	w.wantAbsent(i.many)
	out, err := w.Build(w.ctx, i.many.Path)
	w.check(err)
	if !strings.Contains(out, "downloading from http://"+addr) {
		t.Errorf("no download in %q", out)
	}
	w.wantInstalled(i.many, 0)
}
