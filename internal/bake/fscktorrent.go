package bake

import (
	"context"
	"errors"
	"io/fs"

	"ersatz/internal/block/narindex"
	"ersatz/internal/folder"
	"ersatz/internal/torrent"
)

// checkTorrent checks the torrent of an item whose blocks are good against them.
func (c *checker) checkTorrent(ctx context.Context, e *entry) error {
	base := e.signed.StorePath.Base()
	content, err := c.index.Open(ctx, e.signed.StorePath.Hash)
	if err != nil {
		return ctx.Err() // it has been replaced or removed meanwhile
	}
	defer content.Close() // it was only read
	kept, err := content.KeptTorrent()
	if errors.Is(err, fs.ErrNotExist) && e.magnet == nil {
		return nil
	}
	made, makeErr := content.HashTorrent(ctx, torrent.NewBuilder())
	if makeErr != nil {
		return ctx.Err()
	}
	if e.magnet != nil && (e.magnet.Hash != made.Hash() || e.magnet.Name != made.Name) {
		e.flaws = append(e.flaws, flaw{c.Narinfo(e.signed.StorePath.Hash), errors.New("ERISMagnet is that of another torrent"), false})
	}
	if err == nil && kept.Hash() != made.Hash() {
		err = errors.New("the torrent is not that of the blocks")
	}
	if err != nil {
		e.flaws = append(e.flaws, flaw{narindex.TorrentDir + "/" + base, err, true})
	}
	return nil
}

// retorrent makes the torrent of an indexed item anew, if the narinfo names it or
// one is kept.
func (c *checker) retorrent(ctx context.Context, e entry) (err error) {
	if e.magnet == nil && !folder.Exists(c.Path(narindex.TorrentDir+"/"+e.signed.StorePath.Base())) {
		return nil
	}
	content, err := c.index.Open(ctx, e.signed.StorePath.Hash)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	i, err := content.HashTorrent(ctx, torrent.NewBuilder())
	if err != nil {
		return err
	}
	return content.KeepTorrent(i)
}
