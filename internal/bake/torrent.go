package bake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"ersatz/eris"
	"ersatz/internal/block/narindex"
	"ersatz/internal/folder"
	"ersatz/internal/torrent"
	"ersatz/narinfo"
)

// blocks takes the blocks of an item as they are encoded.
type blocks struct {
	*narindex.TreeWriter
	torrent *torrent.Builder // gets the leaves; nil if no torrent is made
}

func newBlocks(tree io.Writer, linked bool) blocks {
	b := blocks{TreeWriter: narindex.NewTreeWriter(tree)}
	if linked {
		b.torrent = torrent.NewBuilder()
	}
	return b
}

func (b blocks) add(x eris.Block) error {
	if b.torrent != nil && x.Level == 0 {
		b.torrent.Write(x.Data) // the error is nil
	}
	return b.Add(x)
}

// pieces returns the hashes of pieces of the leaves, nil if no torrent is made.
func (b blocks) pieces() []byte {
	if b.torrent == nil {
		return nil
	}
	return append([]byte{}, b.torrent.Pieces()...) // not nil
}

// torrents reports whether narinfos have magnet links. Without a signature that
// covers them nobody believes them.
func (c *Cache) torrents() bool { return c.o.Torrents && c.signer.Guix != nil }

// linked reports whether the narinfo of an item is to have a magnet link.
func (c *Cache) linked(hash string) bool { return c.torrents() && c.isAhead(hash) }

// makeMagnet keeps the torrent of an indexed item and returns its magnet link,
// "" if the item is too long for one. pieces has those of the leaves that were
// hashed just now, or is nil: then a torrent that is kept stays.
func (c *Cache) makeMagnet(ctx context.Context, hash string, pieces []byte) (link string, err error) {
	content, err := c.index.Open(ctx, hash)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	var i torrent.Info
	if pieces == nil {
		i, err = content.Torrent(ctx)
	} else {
		var b *torrent.Builder
		if b, err = torrent.Resume(pieces); err == nil {
			i, err = content.HashTorrent(ctx, b)
		}
		if err == nil {
			err = content.KeepTorrent(i)
		}
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
