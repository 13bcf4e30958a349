package realnix_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/internal/realguix"
)

// node runs ersatz node until the test ends.
func (w *world) node(args ...string) *realguix.Server {
	w.t.Helper()
	addr, err := realguix.FreeAddr()
	w.check(err)
	args = append([]string{"node", "--listen=" + addr, "--socket=none", "--state=" + w.t.TempDir()}, args...)
	s, err := realguix.Serve(w.ctx, addr, func(ctx context.Context) *exec.Cmd { return w.Command(ctx, w.program, args...) })
	w.check(err)
	w.t.Cleanup(func() {
		s.Stop()
		if w.t.Failed() {
			w.t.Log(s.Log())
		}
	})
	return s
}

// TestNode has Nix copy, through a node, from a folder that Nix has made, in
// each of its compressions.
func TestNode(t *testing.T) {
	w := start(t)
	for _, compression := range []string{"xz", "zstd", "bzip2", "gzip", "none"} {
		t.Run(compression, func(t *testing.T) {
			dir := filepath.Join(w.Path("/"), "cache-"+compression)
			w.run("nix", "copy", "--to", "file://"+dir+"?compression="+compression+"&secret-key="+w.Path("/key.sec"), w.item)
			upstream := httptest.NewServer(http.FileServer(http.Dir(dir)))
			defer upstream.Close()
			s := w.node("--upstream=" + upstream.URL)
			for _, path := range []string{"", "/nix"} {
				m, err := w.copyFrom(s.URL+path, w.public)
				if err != nil {
					t.Fatal(err)
				}
				w.wantCopied(m)
			}
		})
	}
}

// TestNodeKeys: with keys, a node passes on what one of them has signed; and
// Nix refuses by itself what it does not trust.
func TestNodeKeys(t *testing.T) {
	w := start(t)
	w.run("nix-store", "--generate-binary-cache-key", "other-1", w.Path("/other.sec"), w.Path("/other.pub"))
	upstream := w.publish(w.keyFlag())
	m, err := w.copyTo(w.node("--upstream="+upstream.URL, "--nix-trusted-key="+strings.TrimSpace(w.public)), w.public)
	w.check(err)
	w.wantCopied(m)
	if _, err := w.copyTo(w.node("--upstream="+upstream.URL, "--nix-trusted-key="+w.Path("/other.pub")), w.public); err == nil || !strings.Contains(err.Error(), "not valid") && !strings.Contains(err.Error(), "does not exist") && !strings.Contains(err.Error(), "substituter") {
		t.Errorf("what no key has signed is passed on: %v", err)
	}
	s := w.node("--upstream=" + upstream.URL)
	m, err = w.copyTo(s, "other-1:"+strings.Repeat("A", 43)+"=")
	w.wantRefused(m, err)
	w.run("nix-store", "--realise", w.item, "--option", "substituters", s.URL+"/nix", "--option", "trusted-public-keys", w.public)
}
