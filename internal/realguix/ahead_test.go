package realguix

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// makeChain returns n small items, each of which refers to the one before.
func makeChain(t *testing.T, n int) []Item {
	t.Helper()
	dir := t.TempDir()
	var chain []Item
	for k := range n {
		name := fmt.Sprintf("link-%d", k)
		tree := filepath.Join(dir, name)
		if err := MakeFile(tree, uint64(40+k), 50_000); err != nil {
			t.Fatal(err)
		}
		item := storeItem(name, "0123456789"[k], tree)
		if k > 0 {
			item.References = append(item.References, chain[k-1].Path)
		}
		chain = append(chain, item)
	}
	return chain
}

// reluctant holds the nar that is asked for first back until so many others
// have been asked for.
type reluctant struct {
	mu      sync.Mutex
	others  int
	asked   map[string]int // nars, by path
	willing chan struct{}
}

func (r *reluctant) spoil(res *http.Response) bool {
	if !isNar(res) {
		return false
	}
	r.mu.Lock()
	first := len(r.asked) == 0
	r.asked[res.Request.URL.Path]++
	if len(r.asked) == r.others+1 {
		close(r.willing)
	}
	r.mu.Unlock()
	if first {
		select {
		case <-r.willing:
		case <-res.Request.Context().Done():
		}
	}
	return false
}

// nars returns how often each nar was asked for.
func (r *reluctant) nars() (total int, twice []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for path, n := range r.asked {
		if total += n; n > 1 {
			twice = append(twice, path)
		}
	}
	return total, twice
}

// wantSubstitutable asks the daemon what can be had of items from a server.
func (w *world) wantSubstitutable(server string, items []Item) {
	w.t.Helper()
	var paths strings.Builder
	for _, item := range items {
		fmt.Fprintf(&paths, " %q", item.Path.String())
	}
	const script = "/root/query.scm"
	w.check(w.WriteFile(script, fmt.Appendf(nil, `(use-modules (guix store))
(with-store store
  (set-build-options store #:use-substitutes? #t #:substitute-urls '(%q))
  (display (length (substitutable-paths store '(%s)))))
`, server, paths.String()), 0o644))
	out, err := w.Run(w.ctx, "guix", "repl", script)
	if err != nil || !strings.HasSuffix(out, fmt.Sprint(len(items))) {
		w.t.Errorf("%s has not all items: %v\n%s", server, err, out)
	}
}

// TestNodeLooksAhead: what was queried together is fetched from when the first
// of it is asked for, before the daemon, which asks for one after another, asks
// for the others; each once. A query alone fetches nothing.
func TestNodeLooksAhead(t *testing.T) {
	for _, name := range []string{"stock", "ours"} {
		t.Run(name, func(t *testing.T) {
			chain := makeChain(t, 7)
			r := &reluctant{others: 4, asked: map[string]int{}, willing: make(chan struct{})}
			o := newOrigin(t, "guix", "zstd:3", r.spoil, chain...)
			w := withErsatz(t)
			addr := w.addr()
			args := []string{"--socket=" + nodeSocket, "--upstream=" + o.URL}
			n := w.node(addr, args...)
			from := "http://" + addr
			if name == "ours" {
				from = o.URL
				w.daemon(wrapped(false))
			} else {
				w.daemon(DaemonOptions{})
			}
			w.wantSubstitutable(from, chain)
			if total, _ := r.nars(); total != 0 {
				t.Errorf("%d nars were fetched for a question", total)
			}
			w.check(w.ForgetNarinfos())
			n.Stop()
			w.node(addr, args...) // which knows nothing of that question
			top := chain[len(chain)-1]
			w.build(top, from)
			for _, item := range chain {
				w.wantInstalled(item, 0)
			}
			if total, twice := r.nars(); total != len(chain) || len(twice) > 0 {
				t.Errorf("%d nars of %d items were asked for, more than once %q", total, len(chain), twice)
			}
		})
	}
}
