package realguix

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAdopt has ersatz publish go on with the cache of a stock guix publish,
// also for an item that the store has lost meanwhile.
func TestAdopt(t *testing.T) {
	w, i := withErsatz(t), makeItems(t)
	w.daemon(wrapped(true))
	w.check(w.Import(w.ctx, w.key, i.all()...))
	const cache = "/var/cache/publish"
	old := w.addr()
	s := w.serve(old, "guix", "--cache="+cache, "--compression=zstd:3")
	w.baked(old, i.many, i.big)
	s.Stop()
	w.remove(i.many)

	addr := w.addr()
	w.serve(addr, "ersatz", "--cache="+cache, "--compression=zstd:19", "--cache-bypass-threshold=1")
	for _, item := range []Item{i.many, i.big} {
		text := w.baked(addr, item)
		if !strings.Contains(text, "\nERISFormat: application/x-nix-archive+zstd\nERIS: urn:eris:") {
			t.Errorf("narinfo of an adopted nar:\n%s", text)
		}
		before, err := os.Stat(w.Path(filepath.Join(cache, "zstd", item.Path.Base()+".nar")))
		w.check(err)
		after, err := os.Stat(w.Path(filepath.Join(cache, "nar/zstd", item.Path.Base())))
		w.check(err)
		if !os.SameFile(before, after) {
			t.Errorf("%s was compressed or copied", item.Path)
		}
	}
	w.wantFrom(w.build(i.many, "http://"+addr), "urn:eris:")
	w.wantInstalled(i.many, w.uid("guix-daemon"))
	if out, err := w.Run(w.ctx, "ersatz", "fsck", cache); err != nil {
		t.Errorf("fsck: %v\n%s", err, out)
	}
}

// TestPublishUser publishes as root, who can read the store's database, and as
// a user who cannot: between two connections the daemon leaves no -shm file,
// without which SQLite needs the right to write. Then the daemon is asked.
func TestPublishUser(t *testing.T) {
	for user, source := range map[string]string{"root": "sqlite", "nobody": "daemon"} {
		t.Run(user, func(t *testing.T) {
			w, i := withErsatz(t), makeItems(t)
			w.daemon(wrapped(false))
			w.check(w.Import(w.ctx, w.key, i.all()...))
			addr := w.addr()
			s := w.serve(addr, "ersatz", "--user="+user, "--cache=/var/cache/ersatz", "--compression=zstd:3")
			w.baked(addr, i.many)
			if want := "database=" + source; !strings.Contains(s.Log(), want) {
				t.Errorf("no %s in its log:\n%s", want, s.Log())
			}
			fi, err := os.Stat(w.Path("/var/cache/ersatz/" + i.many.Path.Hash + ".narinfo"))
			w.check(err)
			w.check(checkOwner(fi, w.uid(user)))
			w.remove(i.many)
			w.wantFrom(w.build(i.many, "http://"+addr), "urn:eris:")
		})
	}
}
