package realnix_test

import (
	"net/http"
	"net/http/httptest"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/internal/realguix"
)

// TestNodeKeeps: what Nix has copied through a node comes from the node again,
// narinfo and all, after a restart and with the upstream gone: by `nix copy`
// and by a substituter, on machines that know nothing of it.
func TestNodeKeeps(t *testing.T) {
	w := start(t)
	for name, upstream := range map[string]func() (url string, stop func()){
		"folder of Nix": func() (string, func()) {
			dir := filepath.Join(w.Path("/"), "cache")
			w.run("nix", "copy", "--to", "file://"+dir+"?compression=xz&secret-key="+w.Path("/key.sec"), w.item)
			s := httptest.NewServer(http.FileServer(http.Dir(dir)))
			return s.URL, s.Close
		},
		"ersatz publish": func() (string, func()) {
			s := w.publish(w.keyFlag(), "--cache="+w.Path("/baked"), "--compression=zstd:3")
			w.baked(s, w.dep)
			w.baked(s, w.item)
			return s.URL, s.Stop
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, stop := upstream()
			defer stop()
			flags := []string{"--state=" + t.TempDir(), "--upstream=" + url}
			s := w.node(flags...)
			m, err := w.copyTo(s, w.public)
			w.check(err)
			w.wantCopied(m)

			stop()
			s.Stop()
			s = w.node(flags...)
			m, err = w.copyTo(s, w.public)
			w.check(err)
			w.wantCopied(m)
			m = w.machine()
			_, err = m.Run(w.ctx, "nix-store", "--realise", w.item, "--option", "substituters", s.URL+"/nix", "--option", "trusted-public-keys", w.public)
			w.check(err)
			w.wantCopied(m)
		})
	}
}

// TestNodeHint: of a folder that Nix has made, in each compression that nodes
// encode, a second node gets blocks from the first, with the upstream gone.
func TestNodeHint(t *testing.T) {
	w := start(t)
	for _, compression := range []string{"xz", "zstd", "bzip2", "gzip", "none"} {
		t.Run(compression, func(t *testing.T) {
			dir := filepath.Join(w.Path("/"), "cache-"+compression)
			w.run("nix", "copy", "--to", "file://"+dir+"?compression="+compression+"&secret-key="+w.Path("/key.sec"), w.item)
			upstream := httptest.NewServer(http.FileServer(http.Dir(dir)))
			defer upstream.Close()
			first := w.node("--upstream="+upstream.URL, "--log-level=debug")
			m, err := w.copyTo(first, w.public)
			w.check(err)
			w.wantCopied(m)

			second := w.node("--upstream="+upstream.URL, "--peer="+first.URL, "--policy=p2p-only")
			hint := w.hint(first)
			for _, p := range []string{w.dep, w.item} {
				if status, text := w.get(narinfoURL(second, p)); status != http.StatusOK {
					t.Fatalf("%s: status %d, %s", p, status, text)
				}
			}
			upstream.Close()
			m, err = w.copyTo(second, w.public)
			w.check(err)
			w.wantCopied(m)
			if !strings.Contains(first.Log(), "path=/eris/blocks") {
				t.Error("the first node was asked for no blocks")
			}
			if got := w.hint(second); got != hint {
				t.Errorf("the second node has %s, the first %s", got, hint)
			}
		})
	}
}

// hint returns the URN that a node adds to the narinfo of the item.
func (w *world) hint(s *realguix.Server) string {
	w.t.Helper()
	_, text := w.get(narinfoURL(s, w.item))
	_, rest, found := strings.Cut(text, "\nERISHint: ")
	urn, _, _ := strings.Cut(rest, "\n")
	if !found || !strings.HasPrefix(urn, "urn:eris:") || strings.Contains(text, "\nERIS: ") {
		w.t.Errorf("narinfo of %s:\n%s", path.Base(w.item), text)
	}
	return urn
}
