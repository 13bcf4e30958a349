package narindex

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"ersatz/eris"
)

// content is an open item: what its blocks are made from.
type content struct {
	*tree
	nar     *os.File
	narErr  error  // why nar is nil
	torrent string // path of the file that has its torrent, if one is kept
}

// open opens an item's two files. Without its nar, it has internal nodes only. The
// error matches fs.ErrNotExist or eris.ErrCorrupt if it is the item's.
func (x *Index) open(base, nar string) (*content, error) {
	if !filepath.IsLocal(nar) || !filepath.IsLocal(base) {
		return nil, fmt.Errorf("index of blocks: %w: %q or %q lies outside the folder", eris.ErrCorrupt, base, nar)
	}
	t, err := openTree(x.treePath(base))
	if err != nil {
		return nil, err
	}
	c := &content{tree: t, torrent: filepath.Join(x.dir, TorrentDir, base)}
	c.nar, c.narErr = os.Open(filepath.Join(x.dir, nar))
	if c.narErr != nil && !errors.Is(c.narErr, fs.ErrNotExist) {
		return nil, errors.Join(c.narErr, t.close())
	}
	return c, nil
}

func (c *content) close() error {
	err := c.tree.close()
	if c.nar != nil {
		err = errors.Join(err, c.nar.Close())
	}
	return err
}

// block makes the block of a node in dst, which has the size of one, and
// returns its reference. The error matches eris.ErrCorrupt if the bytes are no
// longer those that were encoded.
func (c *content) block(dst []byte, node int64) (eris.Ref, error) {
	ref, key, err := c.pair(node)
	if err != nil {
		return ref, err
	}
	level, index := c.shape.Locate(node)
	if level == 0 {
		err = c.leaf(dst, index)
	} else {
		err = c.internal(dst, level, index)
	}
	if err != nil {
		return ref, err
	}
	eris.Seal(dst, dst, level, key)
	if eris.BlockRef(dst) != ref {
		return ref, &eris.CorruptError{Ref: ref, Msg: fmt.Sprintf("node %d is no longer what was encoded", node)}
	}
	return ref, nil
}

// internal reads the plaintext of an internal node.
func (c *content) internal(dst []byte, level int, index int64) error {
	from, to := c.shape.Children(level, index)
	n := (to - from) * pairSize
	clear(dst[n:])
	return c.pairsAt(dst[:n], from)
}

// leaf reads the plaintext of a leaf.
func (c *content) leaf(dst []byte, index int64) error {
	_, err := c.leaves(dst, index)
	return err
}

// leaves reads the plaintext of adjacent leaves, of as many as dst has the size
// of, beginning with one. It returns how many could be read; if that is not all,
// the error says why.
func (c *content) leaves(dst []byte, index int64) (int, error) {
	if c.nar == nil {
		return 0, c.narErr
	}
	size := int64(c.cap.Size)
	off := index * size
	want := min(c.length-off, int64(len(dst)))
	n, err := c.nar.ReadAt(dst[:want], off)
	if int64(n) < want {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: ends before byte %d", eris.ErrCorrupt, off+want)
		}
		return n / int(size), fmt.Errorf("nar: %w", err)
	}
	if last := dst[want/size*size:]; len(last) > 0 {
		eris.Leaf(last, last[:want%size])
	}
	return len(dst) / int(size), nil
}
