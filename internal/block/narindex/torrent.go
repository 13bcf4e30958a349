package narindex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"ersatz/eris"
	"ersatz/internal/durable"
	"ersatz/internal/torrent"
)

// Base returns the last component of the item's store path.
func (c *Content) Base() string { return filepath.Base(c.c.torrent) }

// Torrent returns the torrent of the item's blocks. If none is kept, it is made
// of all blocks, and kept. An error matches torrent.ErrTooLong or those of Block.
func (c *Content) Torrent(ctx context.Context) (torrent.Info, error) {
	i, err := c.KeptTorrent()
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, eris.ErrCorrupt) {
		return i, err
	}
	if i, err = c.HashTorrent(ctx, torrent.NewBuilder()); err != nil {
		return i, err
	}
	if err := c.KeepTorrent(i); err != nil {
		return i, err
	}
	// The item may have been removed meanwhile, its tree file before its torrent.
	_, err = os.Lstat(c.c.f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		if err = durable.Remove(c.c.torrent); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return i, err
}

// KeptTorrent returns the torrent that is kept of the item. The error matches
// fs.ErrNotExist if there is none, or eris.ErrCorrupt if the file has no torrent
// of that content. Whether its hashes are those of the blocks is not checked.
func (c *Content) KeptTorrent() (torrent.Info, error) {
	f, err := os.Open(c.c.torrent)
	if err != nil {
		return torrent.Info{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, torrent.MaxInfo+1))
	if err != nil {
		return torrent.Info{}, err
	}
	i, err := torrent.ParseInfo(text)
	if err == nil {
		_, err = i.Shape(c.c.cap)
	}
	if err != nil {
		return torrent.Info{}, fmt.Errorf("%s: %w: %w", c.c.torrent, eris.ErrCorrupt, err)
	}
	return i, nil
}

// CheckTorrent returns what is wrong with the torrent that is kept of the item, if
// any is: it makes all blocks, which are good.
func (c *Content) CheckTorrent(ctx context.Context) error {
	kept, err := c.KeptTorrent()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	made, err := c.HashTorrent(ctx, torrent.NewBuilder())
	if err == nil && kept.Hash() != made.Hash() {
		err = fmt.Errorf("%s: %w: not the torrent of the blocks", c.c.torrent, eris.ErrCorrupt)
	}
	return err
}

// HashTorrent writes the blocks to b that it lacks of all in the order of Refs,
// and returns the torrent. An error matches torrent.ErrTooLong or those of Block.
func (c *Content) HashTorrent(ctx context.Context, b *torrent.Builder) (torrent.Info, error) {
	size := int64(c.c.cap.Size)
	if c.Len() > torrent.MaxLength/size {
		return torrent.Info{}, fmt.Errorf("%w: %d blocks of %s", torrent.ErrTooLong, c.Len(), c.c.cap.Size)
	}
	for place := b.Length() / size; place < c.Len(); place++ {
		_, block, err := c.Block(ctx, place)
		if err != nil {
			return torrent.Info{}, err
		}
		b.Write(block) // the error is nil
	}
	return b.Finish(c.c.cap.Root), nil
}

// KeepTorrent keeps a torrent that HashTorrent has returned.
func (c *Content) KeepTorrent(i torrent.Info) error {
	return durable.WriteFile(c.c.torrent, 0o644, func(w io.Writer) error {
		_, err := w.Write(i.Bytes())
		return err
	})
}
