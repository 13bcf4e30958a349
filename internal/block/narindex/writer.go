package narindex

import (
	"bufio"
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"ersatz/eris"
	"ersatz/internal/durable"
	"ersatz/storepath"
)

// chunk is how many nodes are added or deleted at once, sorted by reference:
// pages of the table are then touched once per chunk. In memory: 1.5 MiB.
const chunk = 16 << 10

// TreeWriter writes the tree file of an item whose blocks it takes as they are
// encoded. In memory it holds the pairs of internal nodes only: 4 bytes per MiB of
// content at 32 KiB, 256 bytes per 64 KiB at 1 KiB. It is not safe for concurrent
// use.
type TreeWriter struct {
	buf   *bufio.Writer
	n     []int64  // nodes per level
	upper [][]byte // pairs per level, from level 1 on
}

// NewTreeWriter begins a file, which is empty.
func NewTreeWriter(w io.Writer) *TreeWriter {
	t := &TreeWriter{buf: bufio.NewWriterSize(w, 32<<10)}
	t.buf.WriteString(treeMagic) // the buffer keeps its first error
	return t
}

// Add takes a block, in the order of eris.Encoder, of which it may be the emit
// function. It keeps nothing of it.
func (t *TreeWriter) Add(b eris.Block) error {
	if b.Level == len(t.n) {
		t.n = append(t.n, 0)
		t.upper = append(t.upper, nil)
	}
	if b.Level < 0 || b.Level >= len(t.n) || b.Index != t.n[b.Level] {
		return fmt.Errorf("tree file: block %d of level %d is out of order", b.Index, b.Level)
	}
	t.n[b.Level]++
	if b.Level > 0 {
		t.upper[b.Level] = append(append(t.upper[b.Level], b.Ref[:]...), b.Key[:]...)
		return nil
	}
	t.buf.Write(b.Ref[:]) // the buffer keeps its first error
	if _, err := t.buf.Write(b.Key[:]); err != nil {
		return fmt.Errorf("tree file: %w", err)
	}
	return nil
}

// Finish ends the file. c and length are what the encoder ended with.
func (t *TreeWriter) Finish(c eris.ReadCap, length int64) error {
	s := eris.NewShape(c.Size, length)
	if len(t.n) != s.Level()+1 || int(c.Level) != s.Level() {
		return fmt.Errorf("tree file: %d levels for %d bytes", len(t.n), length)
	}
	total := int64(0)
	for level, n := range t.n {
		if total != s.First(level) {
			return fmt.Errorf("tree file: level %d has a wrong number of blocks", level)
		}
		total += n
		t.buf.Write(t.upper[level]) // the buffer keeps its first error
	}
	t.buf.Write(c.Bytes())
	t.buf.Write(binary.BigEndian.AppendUint64(nil, uint64(length)))
	if err := t.buf.Flush(); err != nil {
		return fmt.Errorf("tree file: %w", err)
	}
	return nil
}

// Writer makes an item part of the index, whose blocks it takes as they are
// encoded, or whose tree file somebody else writes. Exactly one of Commit,
// CommitTree and Abort ends it; Abort after another does nothing. It is not safe
// for concurrent use.
type Writer struct {
	x    *Index
	base string
	hash string
	f    *durable.File
	tree *TreeWriter // nil until Add
}

// NewWriter begins an item.
func (x *Index) NewWriter(p storepath.Path) (*Writer, error) {
	f, err := durable.Create(x.treePath(p.Base()), 0o644)
	if err != nil {
		return nil, fmt.Errorf("tree file: %w", err)
	}
	return &Writer{x: x, base: p.Base(), hash: p.Hash, f: f}, nil
}

// File returns the tree file, for a TreeWriter in place of Add: another process
// may write it by its temporary name.
func (w *Writer) File() *durable.File { return w.f }

// Add is that of a TreeWriter.
func (w *Writer) Add(b eris.Block) error {
	if w.tree == nil {
		w.tree = NewTreeWriter(w.f)
	}
	return w.tree.Add(b)
}

// Commit makes the item part of the index, in place of one with the same hash
// part: the tree file appears, then all rows at once. c and length are what
// the encoder ended with; nar names the content's file, relative to the cache
// folder, which exists and is durable. After an error there is nothing of a new
// item, but one that was there before may be partly gone; Commit or Remove of it
// repairs that.
func (w *Writer) Commit(ctx context.Context, c eris.ReadCap, length int64, nar string) error {
	err := errors.New("tree file: no blocks")
	if w.tree != nil {
		err = w.tree.Finish(c, length)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", w.base, err), w.Abort())
	}
	return w.CommitTree(ctx, c, length, nar)
}

// CommitTree is Commit after Finish of the tree file. One that does not fit c and
// length is refused; the error then matches eris.ErrCorrupt.
func (w *Writer) CommitTree(ctx context.Context, c eris.ReadCap, length int64, nar string) error {
	t, err := openTree(w.f.TempName())
	if err == nil {
		defer t.close()
		if t.cap != c || t.length != length {
			err = fmt.Errorf("%w: it is that of other content", eris.ErrCorrupt)
		}
	}
	if err == nil && !filepath.IsLocal(nar) {
		err = fmt.Errorf("content is in %q", nar)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("tree file of %s: %w", w.base, err), w.Abort())
	}
	path := w.x.treePath(w.base)
	old, oldErr := openTree(path)
	if oldErr == nil {
		defer old.close()
	}
	if err := w.f.Commit(); err != nil {
		return fmt.Errorf("tree file: %w", err)
	}
	err = w.x.update(ctx, func(tx *sql.Tx) error {
		if err := w.x.deleteItem(ctx, tx, old, w.hash); err != nil {
			return err
		}
		return w.x.insertItem(ctx, tx, t, Item{Base: w.base, Hash: w.hash, Nar: filepath.ToSlash(nar)})
	})
	if err != nil && errors.Is(oldErr, fs.ErrNotExist) {
		err = errors.Join(err, durable.Remove(path)) // or it is of nothing
	}
	return err
}

// Abort gives the item up.
func (w *Writer) Abort() error { return w.f.Abort() }

func (x *Index) insertItem(ctx context.Context, tx *sql.Tx, t *tree, i Item) error {
	own := context.WithoutCancel(ctx) // the transaction has the lock: no statement waits
	res, err := tx.StmtContext(own, x.stmts.add).ExecContext(own, i.Hash, i.Base, i.Nar)
	if err != nil {
		return err
	}
	id, err := res.LastInsertId()
	if err != nil {
		return err
	}
	rows, err := each(ctx, t, id, func(i int) (*sql.Stmt, error) {
		return tx.StmtContext(own, x.stmts.addRows[i]), nil
	})
	if err != nil {
		return err
	}
	_, err = tx.StmtContext(own, x.stmts.count).ExecContext(own, rows, id)
	return err
}

// deleteItem deletes an item, if there is one. Its rows are found by its tree,
// which may be nil, or another one after a crash: then by reading all rows.
func (x *Index) deleteItem(ctx context.Context, tx *sql.Tx, t *tree, hash string) error {
	own := context.WithoutCancel(ctx)
	i, err := item(ctx, tx.StmtContext(own, x.stmts.item), hash)
	if errors.Is(err, ErrNoItem) {
		return nil
	}
	if err != nil {
		return err
	}
	deleted := int64(0)
	if t != nil {
		var drop byRows // closed with the transaction: items are seldom deleted
		deleted, err = each(ctx, t, i.id, func(i int) (_ *sql.Stmt, err error) {
			if drop[i] == nil {
				drop[i], err = tx.PrepareContext(own, forRows(i, `DELETE FROM blocks WHERE `, `ref = ? AND item = ? AND node = ?`, ` OR `))
			}
			return drop[i], err
		})
		if err != nil {
			return err
		}
	}
	if deleted != i.rows {
		if _, err := tx.ExecContext(ctx, `DELETE FROM blocks WHERE item = ?`, i.id); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(own, `DELETE FROM items WHERE id = ?`, i.id)
	return err
}

// each runs statements for all rows of an item: by returns that at a place of a
// byRows. It returns how many rows were affected.
func each(ctx context.Context, t *tree, id int64, by func(i int) (*sql.Stmt, error)) (int64, error) {
	affected := int64(0)
	args := make([]any, 0, 3*min(rowsPerStatement, t.shape.Nodes()))
	err := t.rows(ctx, func(rows []row) error {
		for len(rows) > 0 {
			i := sizeOf(len(rows))
			stmt, err := by(i)
			if err != nil {
				return err
			}
			args = args[:0]
			for _, r := range rows[:1<<i] {
				args = append(args, r.key, id, r.node)
			}
			rows = rows[1<<i:]
			res, err := stmt.ExecContext(context.WithoutCancel(ctx), args...)
			if err != nil {
				return err
			}
			done, err := res.RowsAffected()
			if err != nil {
				return err
			}
			affected += done
		}
		return nil
	})
	return affected, err
}

// row is a row of the table blocks, without its item.
type row struct {
	key, node int64
	pair      int // place in the chunk
}

// rows calls visit with the rows of a tree, by the chunk, each sorted by key.
// Of equal blocks in a chunk, the first has a row.
func (t *tree) rows(ctx context.Context, visit func([]row) error) error {
	pairs := make([]byte, min(chunk, t.shape.Nodes())*pairSize)
	rows := make([]row, 0, min(chunk, t.shape.Nodes()))
	ref := func(r row) eris.Ref { return eris.Ref(pairs[r.pair*pairSize:][:32]) }
	for from := int64(0); from < t.shape.Nodes(); from += chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(chunk, t.shape.Nodes()-from)
		if err := t.pairsAt(pairs[:n*pairSize], from); err != nil {
			return err
		}
		rows = rows[:0]
		for i := range int(n) {
			rows = append(rows, row{key(pairs[i*pairSize:]), from + int64(i), i})
		}
		slices.SortFunc(rows, func(a, b row) int {
			if a.key != b.key {
				return cmp.Compare(a.key, b.key)
			}
			return cmp.Compare(a.node, b.node)
		})
		rows = slices.CompactFunc(rows, func(a, b row) bool { return a.key == b.key && ref(a) == ref(b) })
		if err := visit(rows); err != nil {
			return err
		}
	}
	return nil
}
