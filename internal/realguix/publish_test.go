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
			if text := s.Log(); strings.Contains(text, "the server's own process") {
				t.Errorf("it has baked itself:\n%s", text)
			}
		})
	}
}

// TestSignedForNixToo has stock Guix, and ersatz, install from narinfos that
// carry a signature of Nix as well, live and baked.
func TestSignedForNixToo(t *testing.T) {
	w, i := withErsatz(t), makeItems(t)
	w.daemon(DaemonOptions{})
	w.check(w.Import(w.ctx, w.key, i.all()...))
	_, err := w.Run(w.ctx, "ersatz", "keygen", "--nix", "cache.example-1", "/etc/nix")
	w.check(err)
	addr := w.addr()
	w.serve(addr, "ersatz", "--cache=/var/cache/ersatz", "--compression=zstd:3", "--nix-key=/etc/nix/nix-key.sec")
	status, live, err := get(w.ctx, "http://"+addr+"/"+i.many.Path.Hash+".narinfo")
	w.check(err)
	baked := w.baked(addr, i.many)
	for what, text := range map[string]string{"live": live, "baked": baked} {
		if !strings.Contains(text, "\nSignature: 1;") || !strings.Contains(text, "\nSig: cache.example-1:") {
			t.Errorf("%s: not signed for both, status %d:\n%s", what, status, text)
		}
	}
	w.remove(i.many)
	w.wantFrom(w.build(i.many, "http://"+addr), "http://"+addr)
	w.wantInstalled(i.many, 0)
	w.daemon(wrapped(false))
	w.remove(i.many)
	w.wantFrom(w.build(i.many, "http://"+addr), "urn:eris:")
	w.wantInstalled(i.many, 0)
}
