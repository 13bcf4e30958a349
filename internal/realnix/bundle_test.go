package realnix_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestBundle has Nix copy from a folder what came in a bundle from ersatz
// publish, and from a folder that Nix has made. One name has characters that URLs
// encode.
func TestBundle(t *testing.T) {
	w := start(t)
	s := w.publish(w.keyFlag(), "--compression=zstd:3", "--cache="+filepath.Join(w.Path("/"), "baked"))
	w.baked(s, w.dep)
	w.baked(s, w.item)
	made := filepath.Join(w.Path("/"), "made")
	w.run("nix", "copy", "--to", "file://"+made+"?secret-key="+w.Path("/key.sec"), w.item)
	for name, from := range map[string]string{"publish": s.URL, "Nix": "file://" + made} {
		dir := t.TempDir()
		stick, mirror := filepath.Join(dir, "stick.cbor"), filepath.Join(dir, "mirror")
		key := "--nix-trusted-key=" + strings.TrimSpace(w.public)
		w.run(w.program, "export", key, "--from", from, "--output", stick, w.item)
		w.run(w.program, "import", key, "--to", mirror, stick)
		m, err := w.copyFrom("file://"+mirror, w.public)
		if err != nil {
			t.Errorf("from %s: %v", name, err)
			continue
		}
		w.wantCopied(m)
		m, err = w.copyFrom("file://"+mirror, "other-1:"+strings.Repeat("A", 43)+"=")
		w.wantRefused(m, err)
	}
}
