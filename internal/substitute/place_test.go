package substitute_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestConnectionsAreKept: one process, many items, few connections.
func TestConnectionsAreKept(t *testing.T) {
	server := newServer(t)
	var items []*item
	for i := range 12 {
		size := 1000 + i
		if i%3 == 0 {
			size = 2<<20 + i
		}
		it := newItem(t, fmt.Sprintf("item-%d", i), tree(t, size), []string{"zstd:3", "gzip", "none"}[i%3])
		server.add(t, it, key(t, 1))
		items = append(items, it)
	}
	m := newMachine(t, server.URL)
	for i, reply := range m.substitute(items...) {
		if !strings.HasPrefix(reply, "success") {
			t.Errorf("item %d: %q", i, reply)
		}
	}
	// Calls for blocks run side by side; all else is one after the other.
	if n := server.accepts.Load(); n > 8 {
		t.Errorf("%d connections for %d items", n, len(items))
	}
}

func TestDestinationExists(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1000), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	must(t, os.WriteFile(m.dest(it), []byte("somebody's"), 0o644))
	if reply := m.substitute(it)[0]; reply != "not-found" {
		t.Errorf("reply %q", reply)
	}
	if b, err := os.ReadFile(m.dest(it)); err != nil || string(b) != "somebody's" {
		t.Errorf("what was there is %q, %v", b, err)
	}
	m.wantMessage("file already exists")
	m.wantNothingElse(it)
}

func TestNoSuchFolder(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1000), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	m.store = filepath.Join(m.store, "none")
	if reply := m.substitute(it)[0]; reply != "not-found" {
		t.Errorf("reply %q", reply)
	}
}

// TestRepair: for guix build --repair, the daemon asks for PATH.tmp, which is
// no temporary root; the name on the way is still the one that is spared.
func TestRepair(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1000), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	must(t, os.MkdirAll(m.dest(it)+".chroot/left", 0o555))
	var out strings.Builder
	in := fmt.Sprintf("substitute %s %s.tmp\n", it.path, m.dest(it))
	must(t, m.open().Substitute(t.Context(), strings.NewReader(in), &out))
	if !strings.HasPrefix(out.String(), "success") {
		t.Fatalf("reply %q", out.String())
	}
	must(t, os.Rename(m.dest(it)+".tmp", m.dest(it)))
	m.wantNothingElse(it)
}

func TestSingleFileAndSymlink(t *testing.T) {
	file, link := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "link")
	must(t, os.WriteFile(file, []byte("content"), 0o755))
	must(t, os.Symlink("/nowhere", link))
	server := newServer(t)
	a, b := newItem(t, "file", file, "zstd:3"), newItem(t, "link", link, "none")
	server.add(t, a, key(t, 1))
	server.add(t, b, key(t, 1))
	m := newMachine(t, server.URL)
	for i, reply := range m.substitute(a, b) {
		if !strings.HasPrefix(reply, "success") {
			t.Errorf("item %d: %q", i, reply)
		}
	}
	if fi, err := os.Lstat(m.dest(a)); err != nil || fi.Mode() != 0o555 || fi.ModTime().Unix() != 1 {
		t.Errorf("file: %v, %v", fi, err)
	}
	if fi, err := os.Lstat(m.dest(b)); err != nil || fi.ModTime().Unix() != 1 {
		t.Errorf("link: %v, %v", fi, err)
	}
	m.wantNothingElse(a, b)
}

func TestDedup(t *testing.T) {
	for _, on := range []bool{true, false} {
		m := newMachine(t)
		m.daemon.Deduplicate = on
		// Two items with one file of 50,000 bytes in common.
		a, b := tree(t, 50_000), tree(t, 50_000)
		must(t, os.WriteFile(filepath.Join(b, "more"), nil, 0o644))
		one, two := newItem(t, "one", a, "zstd:3").in(m.store), newItem(t, "two", b, "zstd:3").in(m.store)
		server := newServer(t)
		server.add(t, one, key(t, 1))
		server.add(t, two, key(t, 1))
		m.daemon.Servers = []string{server.URL}
		for i, reply := range m.substitute(one, two) {
			if !strings.HasPrefix(reply, "success") {
				t.Errorf("item %d: %q\n%s", i, reply, m.messages.String())
			}
		}
		x, err := os.Stat(filepath.Join(m.dest(one), "data"))
		must(t, err)
		y, err := os.Stat(filepath.Join(m.dest(two), "data"))
		must(t, err)
		if os.SameFile(x, y) != on {
			t.Errorf("deduplicate %v: the files are the same: %v", on, !on)
		}
		m.wantNothingElse(one, two)
	}
}

func TestCancelled(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1000), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out strings.Builder
	err := m.open().Substitute(ctx, strings.NewReader(fmt.Sprintf("substitute %s %s\n", it.path, m.dest(it))), &out)
	if err == nil {
		t.Errorf("no error, replies %q", out.String())
	}
	m.wantNothingElse()
}

// TestBlocksOfSmallItem: below 1 MiB, blocks are the last resort, and one.
func TestBlocksOfSmallItem(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1000), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	m.wantInstalled(m.substitute(it)[0], it)
	if server.count("POST") != 0 {
		t.Error("blocks of a small item were asked for")
	}
	must(t, removeItem(m, it))
	delete(server.files, it.nars[0].URL)
	m.wantInstalled(m.substitute(it)[0], it)
	if server.count("POST") == 0 {
		t.Error("no blocks were asked for")
	}
}
