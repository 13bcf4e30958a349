package bake

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ersatz/eris"
	"ersatz/internal/block/narindex"
	"ersatz/internal/folder"
	"ersatz/internal/torrent"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// blocks takes the blocks of an item as they are encoded.
type blocks struct {
	*narindex.Writer
	torrent *torrent.Builder // gets the leaves; nil if no torrent is made
}

// newBlocks begins an item.
func (c *Cache) newBlocks(p storepath.Path) (*blocks, error) {
	w, err := c.index.NewWriter(p)
	if err != nil {
		return nil, err
	}
	b := &blocks{Writer: w}
	if c.linked(p.Hash) {
		b.torrent = torrent.NewBuilder()
	}
	return b, nil
}

func (b *blocks) add(x eris.Block) error {
	if b.torrent != nil && x.Level == 0 {
		b.torrent.Write(x.Data) // the error is nil
	}
	return b.Add(x)
}

// torrents reports whether narinfos have magnet links. Without a signature that
// covers them nobody believes them.
func (c *Cache) torrents() bool { return c.o.Torrents && c.signer.Guix != nil }

// linked reports whether the narinfo of an item is to have a magnet link.
func (c *Cache) linked(hash string) bool { return c.torrents() && c.isAhead(hash) }

// makeMagnet keeps the torrent of an indexed item and returns its magnet link,
// "" if the item is too long for one. leaves has those that were hashed just now,
// or is nil: then a torrent that is kept stays.
func (c *Cache) makeMagnet(ctx context.Context, hash string, leaves *torrent.Builder) (link string, err error) {
	content, err := c.index.Open(ctx, hash)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	var i torrent.Info
	if leaves == nil {
		i, err = content.Torrent(ctx)
	} else if i, err = content.HashTorrent(ctx, leaves); err == nil {
		err = content.KeepTorrent(i)
	}
	if errors.Is(err, torrent.ErrTooLong) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return torrent.Magnet{Hash: i.Hash(), Name: i.Name, Trackers: c.o.Trackers}.String(), nil
}

// magnet returns the magnet link that the narinfo of a baked item has, "" if
// there is none.
func (c *Cache) magnet(hash string) string {
	text, err := folder.Read(c.path(c.Narinfo(hash)), narinfo.MaxSize)
	if err != nil {
		return ""
	}
	n, err := narinfo.Parse(text)
	if err != nil {
		return ""
	}
	return n.ERISMagnet
}

// checkTrackers refuses what would not be read again from a magnet link.
func checkTrackers(trackers []string) error {
	m, err := torrent.ParseMagnet(torrent.Magnet{Trackers: trackers}.String())
	if err == nil && !slices.Equal(m.Trackers, trackers) {
		err = fmt.Errorf("trackers %q: each is a URL with http, https or udp, and given once", trackers)
	}
	return err
}
