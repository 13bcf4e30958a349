package narindex

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"ersatz/eris"
	"ersatz/internal/torrent"
)

// want is the torrent of the blocks that the encoder made.
func (it *testItem) want() torrent.Info {
	b := torrent.NewBuilder()
	for _, ref := range it.refs {
		b.Write(it.blocks[ref])
	}
	return b.Finish(it.cap.Root)
}

// TestTorrent: the torrent is that of the blocks, is kept, and goes with the item.
func TestTorrent(t *testing.T) {
	x := open(t)
	for n, tt := range []struct {
		size   eris.BlockSize
		length int
	}{{eris.Size1KiB, 0}, {eris.Size1KiB, 300_000}, {eris.Size32KiB, 1_000_000}} {
		it := add(t, x, n, randomBytes(byte(n), tt.length), tt.size)
		c, err := x.Open(t.Context(), it.path.Hash)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.KeptTorrent(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("kept at first: %v", err)
		}
		for range 2 {
			i, err := c.Torrent(t.Context())
			if err != nil || !bytes.Equal(i.Bytes(), it.want().Bytes()) {
				t.Errorf("%d bytes: another torrent, %v", tt.length, err)
			}
		}
		kept, err := c.KeptTorrent()
		if err != nil || kept.Hash() != it.want().Hash() {
			t.Errorf("kept: %v", err)
		}
		// Leaves that were hashed while they were encoded are not read again.
		leaves := torrent.NewBuilder()
		for _, ref := range it.refs[:tt.length/int(tt.size)+1] {
			leaves.Write(it.blocks[ref])
		}
		truncate(t, filepath.Join(x.dir, it.nar), 0)
		if i, err := c.HashTorrent(t.Context(), leaves); err != nil || i.Hash() != it.want().Hash() {
			t.Errorf("from the leaves on: %v", err)
		}
		if _, err := c.HashTorrent(t.Context(), torrent.NewBuilder()); !errors.Is(err, eris.ErrCorrupt) && tt.length > 0 {
			t.Errorf("of a nar that is cut: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := x.Remove(t.Context(), it.path.Hash); err != nil {
			t.Error(err)
		}
		if names, err := os.ReadDir(filepath.Join(x.dir, TorrentDir)); err != nil || len(names) != 0 {
			t.Errorf("left: %v, %v", names, err)
		}
	}
}

// TestKeptTorrent: a file that has not the torrent of the content is none.
func TestKeptTorrent(t *testing.T) {
	x := open(t)
	it := add(t, x, 0, randomBytes(1, 300_000), eris.Size1KiB)
	other := add(t, x, 1, randomBytes(2, 300_000), eris.Size1KiB)
	c, err := x.Open(t.Context(), it.path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	name := filepath.Join(x.dir, TorrentDir, it.path.Base())
	good := it.want().Bytes()
	for what, text := range map[string][]byte{
		"nothing": nil, "cut": good[:len(good)-1], "longer": append(good, 'e'), "another item's": other.want().Bytes(),
		"much too long": make([]byte, torrent.MaxInfo+2),
	} {
		if err := os.WriteFile(name, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := c.KeptTorrent(); !errors.Is(err, eris.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
		if i, err := c.Torrent(t.Context()); err != nil || i.Hash() != it.want().Hash() {
			t.Errorf("%s: made anew: %v", what, err)
		}
		if kept, err := os.ReadFile(name); err != nil || !bytes.Equal(kept, good) {
			t.Errorf("%s: kept %d bytes, %v", what, len(kept), err)
		}
	}
	remove(t, name)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Torrent(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("kept of one that was given up: %v", err)
	}
}

// TestTorrentOfRemoved: an item that is removed while its torrent is made leaves
// none behind.
func TestTorrentOfRemoved(t *testing.T) {
	x := open(t)
	it := add(t, x, 0, randomBytes(1, 300_000), eris.Size1KiB)
	c, err := x.Open(t.Context(), it.path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := x.Remove(t.Context(), it.path.Hash); err != nil {
		t.Fatal(err)
	}
	if i, err := c.Torrent(t.Context()); err != nil || i.Hash() != it.want().Hash() {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(x.dir, TorrentDir)); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
