package realguix

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestBundle carries items in a file from a server that is gone then to a
// folder, from which stock Guix installs them, and ersatz does. One has a name
// whose characters mean something in URLs.
func TestBundle(t *testing.T) {
	w, i := withErsatz(t), makeItems(t)
	w.daemon(DaemonOptions{})
	odd := storeItem("odd+name=1_0", 'f', filepath.Join(t.TempDir(), "odd"), i.dep.Path)
	w.check(MakeFile(odd.Tree, 5, 100_000))
	w.check(w.Import(w.ctx, w.key, append(i.all(), odd)...))
	addr := w.addr()
	s := w.serve(addr, "ersatz", "--cache=/var/cache/ersatz", "--compression=zstd:3")
	w.baked(addr, append(i.all(), odd)...)
	run := func(args ...string) string {
		t.Helper()
		out, err := w.Run(w.ctx, "ersatz", args...)
		w.check(err)
		return out
	}
	const stick, mirror = "/root/stick.cbor", "/srv/mirror"
	// dep comes because the others refer to it.
	run("export", "--from", s.URL, "--output", stick, i.many.Path.String(), i.big.Path.String(), odd.Path.String())
	s.Stop()
	if out := run("import", "--to", mirror, stick); !strings.HasPrefix(out, "4 store items imported") {
		t.Errorf("import says %q", out)
	}
	install := func(owner uint32) {
		t.Helper()
		for _, item := range []Item{i.many, i.big, odd} {
			w.remove(item)
			w.build(item, "file://"+mirror)
			w.wantInstalled(item, owner)
		}
	}
	install(0)
	w.daemon(wrapped(true))
	install(w.uid("guix-daemon"))

	// What the machine has need not travel.
	w.check(w.WriteFile("/root/have", []byte(i.dep.Path.String()+"\n"+i.many.Path.String()+"\n"), 0o644))
	out := run("export", "--from", "file://"+mirror, "--have", "/root/have", "--json", "--output", "/root/rest.cbor", i.many.Path.String(), odd.Path.String())
	if !strings.Contains(out, `"had":2`) || strings.Count(out, `"path":`) != 1 {
		t.Errorf("export says %s", out)
	}
}

// TestBundleOfNode carries items out of a node that has fetched them from a stock
// server, which knows nothing of blocks and is gone then.
func TestBundleOfNode(t *testing.T) {
	w, i := withErsatz(t), makeItems(t)
	w.daemon(DaemonOptions{})
	w.check(w.Import(w.ctx, w.key, i.all()...))
	origin := w.addr()
	s := w.serve(origin, "guix", "--cache=/var/cache/publish", "--compression=zstd:3")
	w.baked(origin, i.dep, i.many)
	addr := w.addr()
	w.node(addr, "--socket=none", "--upstream="+s.URL)
	w.remove(i.many)
	w.remove(i.dep)
	w.wantFrom(w.build(i.many, "http://"+addr), "http://"+addr)
	s.Stop()
	const stick, mirror = "/root/stick.cbor", "/srv/mirror"
	out, err := w.Run(w.ctx, "ersatz", "export", "--from", "http://"+addr, "--json", "--output", stick, i.many.Path.String())
	w.check(err)
	if strings.Count(out, `"from":"urn:eris:`) != 2 {
		t.Errorf("not as the blocks that the node has made: %s", out)
	}
	_, err = w.Run(w.ctx, "ersatz", "import", "--to", mirror, stick)
	w.check(err)
	w.remove(i.many)
	w.remove(i.dep)
	w.build(i.many, "file://"+mirror)
	w.wantInstalled(i.many, 0)
}
