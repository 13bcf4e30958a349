package narindex

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"ersatz/eris"
)

// Content is an item that is open for reading all its blocks, a block.Content. It is not safe
// for concurrent use.
type Content struct {
	c     *content
	pool  *sync.Pool // of *group
	err   error
	next  int64  // place after the last one that Block was asked for
	group *group // of the places from first on; nil if Block was not asked for two in a row
	first int64
	buf   []byte // of Block
}

// Open opens an item. The error matches ErrNoItem, fs.ErrNotExist if the tree
// file is gone, or eris.ErrCorrupt. If the nar is gone, the item has
// references still, and Blocks and Verify give an error that matches
// fs.ErrNotExist.
func (x *Index) Open(ctx context.Context, hash string) (*Content, error) {
	i, err := x.Item(ctx, hash)
	if err != nil {
		return nil, err
	}
	c, err := x.open(i.Base, i.Nar)
	if err != nil {
		return nil, fmt.Errorf("blocks of %s: %w", i.Base, err)
	}
	return &Content{c: c, pool: &x.groups}, nil
}

// Close closes the item's files. What Block has returned is not valid any more.
func (c *Content) Close() error {
	if c.group != nil {
		c.pool.Put(c.group)
		c.group = nil
	}
	return c.c.close()
}

// ReadCap returns the read capability that the item was encoded to.
func (c *Content) ReadCap() eris.ReadCap { return c.c.cap }

// Len returns the number of blocks in the tree.
func (c *Content) Len() int64 { return c.c.shape.Nodes() }

// Block returns the block at a place in the order of Refs. It is verified, and
// valid until the next call. An error matches eris.ErrCorrupt if it is no longer
// what was encoded. Blocks that are asked for in a row are made by groups.
func (c *Content) Block(ctx context.Context, place int64) (eris.Ref, []byte, error) {
	if err := ctx.Err(); err != nil {
		return eris.Ref{}, nil, err
	}
	if place == c.next && !c.ahead(place) {
		c.make(place)
	}
	c.next = place + 1
	if c.ahead(place) {
		if s := c.group.slots[place-c.first]; !s.bad {
			return s.ref, c.group.frames[s.end-int(c.c.cap.Size) : s.end], nil
		}
	}
	if c.buf == nil {
		c.buf = make([]byte, c.c.cap.Size)
	}
	ref, err := c.c.block(c.buf, place)
	return ref, c.buf, err
}

// ahead reports whether the group has a place.
func (c *Content) ahead(place int64) bool {
	return c.group != nil && place >= c.first && place-c.first < int64(len(c.group.slots))
}

// make makes the blocks from a place on, as far as their pairs can be read.
func (c *Content) make(place int64) {
	if c.group == nil {
		var ok bool
		if c.group, ok = c.pool.Get().(*group); !ok {
			c.group = newGroup()
		}
	}
	c.first = place
	c.group.reset()
	for ; place < c.Len() && c.group.room(c.c.cap.Size); place++ {
		ref, key, err := c.c.pair(place)
		if err != nil {
			break
		}
		c.group.add(c.c.cap.Size, place, ref, key)
	}
	c.group.make(c.c)
}

// Refs returns the references of all blocks, leaves first, the root last; one
// that stands twice in the tree comes twice. They come from the tree file and
// are not verified. It ends early on an error, which Err returns.
func (c *Content) Refs() iter.Seq[eris.Ref] {
	return func(yield func(eris.Ref) bool) {
		for node := range c.Len() {
			ref, _, err := c.c.pair(node)
			if err != nil {
				c.err = err
				return
			}
			if !yield(ref) {
				return
			}
		}
	}
}

// Err returns the error that ended Refs.
func (c *Content) Err() error { return c.err }

// Blocks hands each block to emit, in the order of Refs. emit does not keep
// it. Blocks returns the first error of emit, or, if a block is no longer what
// was encoded, an error that matches eris.ErrCorrupt.
func (c *Content) Blocks(ctx context.Context, emit func(ref eris.Ref, block []byte) error) error {
	if c.err != nil {
		return c.err
	}
	for node := range c.Len() {
		ref, b, err := c.Block(ctx, node)
		if err != nil {
			return err
		}
		if err := emit(ref, b); err != nil {
			return err
		}
	}
	return nil
}

// Verify makes all blocks. An error matches eris.ErrCorrupt if one of them, the
// tree or the nar's length is not what was encoded. Since the blocks' hashes
// are the references in their parents up to the root, a good result means that
// the read capability decodes to the nar.
func (c *Content) Verify(ctx context.Context) error {
	if c.c.nar == nil {
		return c.c.narErr
	}
	fi, err := c.c.nar.Stat()
	if err != nil {
		return err
	}
	if fi.Size() != c.c.length {
		return fmt.Errorf("%w: nar has %d bytes, not %d", eris.ErrCorrupt, fi.Size(), c.c.length)
	}
	return c.Blocks(ctx, func(eris.Ref, []byte) error { return nil })
}

// Check returns what is wrong with the tree file and the rows of an item, whose
// nar is good and whose read capability is rc: it makes all blocks. want is
// what the index should say. found matches ErrNoItem if the item is not there.
// An error means that ctx has ended or that the index cannot be read.
func (x *Index) Check(ctx context.Context, want Item, rc eris.ReadCap) (found, err error) {
	i, err := x.Item(ctx, want.Hash)
	if errors.Is(err, ErrNoItem) {
		return err, nil
	}
	if err != nil {
		return nil, err
	}
	if i.Nar != want.Nar || i.Base != want.Base {
		return fmt.Errorf("blocks are made from %s, not %s", i.Nar, want.Nar), nil
	}
	content, err := x.Open(ctx, want.Hash)
	if err != nil {
		return err, ctx.Err()
	}
	found = content.Verify(ctx)
	if found == nil && content.ReadCap() != rc {
		found = errors.New("the tree file is another one's")
	}
	if err := errors.Join(content.Close(), ctx.Err()); err != nil || found != nil {
		return found, err
	}
	missing, err := x.MissingRows(ctx, want.Hash)
	if err == nil && missing > 0 {
		found = fmt.Errorf("%d rows are missing", missing)
	}
	return found, err
}

// MissingRows returns how many rows of an item the index lacks. The error
// matches ErrNoItem or those of Open.
func (x *Index) MissingRows(ctx context.Context, hash string) (int64, error) {
	i, err := x.Item(ctx, hash)
	if err != nil {
		return 0, err
	}
	t, err := openTree(x.treePath(i.Base))
	if err != nil {
		return 0, fmt.Errorf("blocks of %s: %w", i.Base, err)
	}
	defer t.close()
	stmt, err := x.db.PrepareContext(ctx, `SELECT count(*) FROM blocks WHERE ref = ? AND item = ? AND node = ?`)
	if err != nil {
		return 0, fmt.Errorf("index of blocks: %w", err)
	}
	defer stmt.Close()
	missing := int64(0)
	err = t.rows(ctx, func(rows []row) error {
		for _, r := range rows {
			n := int64(0)
			if err := stmt.QueryRowContext(ctx, r.key, i.id, r.node).Scan(&n); err != nil {
				return err
			}
			missing += 1 - n
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("index of blocks: %w", err)
	}
	return missing, nil
}

// ExtraRows calls visit for each item that has another number of rows than
// when it was committed, and with "" if there are rows of no item. With
// MissingRows finding none for an item, those are rows too many.
func (x *Index) ExtraRows(ctx context.Context, visit func(hash string, rows int64) error) (err error) {
	rows, err := x.db.QueryContext(ctx, `SELECT coalesce(i.hash, ''), sum(n) - coalesce(i.rows, 0) FROM
		(SELECT item, count(*) AS n FROM blocks GROUP BY item) LEFT JOIN items i ON i.id = item
		GROUP BY i.hash HAVING sum(n) IS NOT coalesce(i.rows, 0)`)
	if err != nil {
		return fmt.Errorf("index of blocks: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var hash string
		var n int64
		if err := rows.Scan(&hash, &n); err != nil {
			return fmt.Errorf("index of blocks: %w", err)
		}
		if err := visit(hash, n); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("index of blocks: %w", err)
	}
	return nil
}

// DropOrphans deletes the rows that belong to no item.
func (x *Index) DropOrphans(ctx context.Context) error {
	x.write.Lock()
	defer x.write.Unlock()
	if _, err := x.db.ExecContext(ctx, `DELETE FROM blocks WHERE item NOT IN (SELECT id FROM items)`); err != nil {
		return fmt.Errorf("index of blocks: %w", err)
	}
	return nil
}
