package realsystemd

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ersatz/internal/storedb"
	"ersatz/nar"
	"ersatz/storepath"
)

// dropIn returns the text that docs/operations.md wants in ersatz-publish's
// drop-in for a Nix store.
func dropIn(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nFor a Nix store,")
	_, rest, _ = strings.Cut(rest, "\n```\n")
	block, _, found := strings.Cut(rest, "```\n")
	if !found || !strings.HasPrefix(block, "[Service]\n") {
		t.Fatalf("no drop-in in docs/operations.md: %q", block)
	}
	return block
}

// TestNixStore has the unit of publish serve a Nix store, on a machine without
// a key of Guix, by the drop-in of docs/operations.md.
func TestNixStore(t *testing.T) {
	w := boot(t)
	w.installUnits()
	item, err := storepath.Parse("/nix/store/00000000000000000000000000000001-hello")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		item.String(): "hello", "/etc/systemd/system/ersatz-publish.service.d/override.conf": dropIn(t),
	} {
		if err := w.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	db, err := storedb.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := nar.Dump(io.Discard, w.Path(item.String()))
	if err == nil {
		err = db.Register(w.ctx, storedb.Info{Path: item, NarHash: got.Hash, NarSize: uint64(got.Size), Registered: time.Unix(1, 0)})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "db", "db.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	// Without a log beside it, which only nix-daemon could make ("Database File
	// Format", 1.3.3: 1 is a rollback journal).
	text[18], text[19] = 1, 1
	if err := w.WriteFile("/nix/var/nix/db/db.sqlite", text, 0o644); err != nil {
		t.Fatal(err)
	}
	w.run("ersatz", "keygen", "--nix", "cache.example-1", "/etc/nix")
	w.run("systemctl", "daemon-reload")
	w.run("systemctl", "start", "ersatz-publish.socket")
	has(t, w.get("http://127.0.0.1:8080/00000000000000000000000000000001.narinfo", "\nFileSize: "), "\nSig: cache.example-1:")
	has(t, w.get("http://127.0.0.1:8080/nix-cache-info", ""), "StoreDir: /nix/store\n")
	if _, err := os.Lstat(w.Path("/var/cache/ersatz/nar/zstd/" + item.Base())); err != nil {
		t.Error(err)
	}
}
