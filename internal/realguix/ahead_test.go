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

// reluctant holds one answer back until so many others have been asked for.
type reluctant struct {
	of     func(*http.Response) bool // what is counted
	held   int                       // which of them, in the order of asking
	others int                       // that are asked for after it

	mu      sync.Mutex
	asked   map[string]int // by path
	willing chan struct{}
}

func newReluctant(of func(*http.Response) bool, held, others int) *reluctant {
	return &reluctant{of: of, held: held, others: others, asked: map[string]int{}, willing: make(chan struct{})}
}

func (r *reluctant) spoil(res *http.Response) bool {
	if !r.of(res) {
		return false
	}
	r.mu.Lock()
	hold := len(r.asked) == r.held
	r.asked[res.Request.URL.Path]++
	if r.others >= 0 && len(r.asked) > r.held+r.others {
		close(r.willing)
		r.others = -1
	}
	r.mu.Unlock()
	if hold {
		select {
		case <-r.willing:
		case <-res.Request.Context().Done():
		}
	}
	return false
}

// count returns how much was asked for, and what more than once.
func (r *reluctant) count() (total int, twice []string) {
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
			r := newReluctant(isNar, 0, 4)
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
			if total, _ := r.count(); total != 0 {
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
			if total, twice := r.count(); total != len(chain) || len(twice) > 0 {
				t.Errorf("%d nars of %d items were asked for, more than once %q", total, len(chain), twice)
			}
		})
	}
}

// TestQueriesAhead: guix-daemon queries the items of a closure one after the
// other. What an item refers to is looked up all at once meanwhile: by our
// substituter if there is no node, and for the stock one by the node.
func TestQueriesAhead(t *testing.T) {
	leaves := makeChain(t, 6)
	tree := filepath.Join(t.TempDir(), "top")
	if err := MakeFile(tree, 50, 1000); err != nil {
		t.Fatal(err)
	}
	top := storeItem("top", 'a', tree)
	for k := range leaves {
		leaves[k].References = nil
		top.References = append(top.References, leaves[k].Path)
	}
	all := append(leaves, top)
	for _, name := range []string{"ours", "stock"} {
		t.Run(name, func(t *testing.T) {
			r := newReluctant(isNarinfo, 1, 4)
			o := newOrigin(t, "guix", "zstd:3", r.spoil, all...)
			w := withErsatz(t)
			from := o.URL
			if name == "ours" {
				w.daemon(wrapped(false))
			} else {
				w.daemon(DaemonOptions{})
				addr := w.addr()
				w.node(addr, "--socket=none", "--upstream="+o.URL)
				from = "http://" + addr
			}
			w.build(top, from)
			for _, item := range all {
				w.wantInstalled(item, 0)
			}
			// The stock one may ask for what the node is looking up.
			if total, twice := r.count(); len(twice) > 0 && name == "ours" || total > len(all)+2 {
				t.Errorf("%d narinfos of %d items were asked for, more than once %q", total, len(all), twice)
			}
		})
	}
}
