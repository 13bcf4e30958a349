// Package narindex serves ERIS blocks of which only the content is stored: the
// compressed nars in the cache folder of a substitute server. A leaf is read
// from the nar, an internal node from the item's tree file, and encrypted
// again; the index says which reference is which node of which item.
// docs/cache.md, "Blocks are not stored twice", describes all of it.
//
// Whatever is wrong with a nar, a tree file or a row, no block leaves whose
// hash is not the reference that was asked for.
package narindex

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"ersatz/internal/durable"
)

// Places below the cache folder.
const (
	Dir        = "eris"
	TreeDir    = "eris/tree"
	TorrentDir = "eris/torrent"
	File       = "eris/index.sqlite"
)

// schema: a row of blocks is the first 8 bytes of a reference, the item, and
// the node's number in the item's tree. Rows are found by reference, and
// deleted by way of the tree file, so that one index is enough.
const schema = `
CREATE TABLE IF NOT EXISTS items (
	id INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, base TEXT NOT NULL, nar TEXT NOT NULL,
	rows INTEGER NOT NULL, manifest TEXT);
CREATE INDEX IF NOT EXISTS unput ON items(hash) WHERE manifest IS NULL;
CREATE TABLE IF NOT EXISTS blocks (
	ref INTEGER NOT NULL, item INTEGER NOT NULL, node INTEGER NOT NULL,
	PRIMARY KEY (ref, item, node)) WITHOUT ROWID;`

// ErrNoItem means that the index has no such item.
var ErrNoItem = errors.New("not in the index of blocks")

// Index is an open index. It is safe for concurrent use. Several processes
// may have one open; they wait for each other.
type Index struct {
	dir    string
	db     *sql.DB
	stmts  statements
	write  sync.Mutex // held while a transaction writes
	groups sync.Pool  // of *group
}

// Open opens the index of a cache folder, which exists, and makes what is
// missing. What root makes belongs to the owner of the folder: fsck may be run
// by root, beside a process that is not.
func Open(dir string) (*Index, error) {
	missing := missing(dir)
	for _, d := range []string{TreeDir, TorrentDir} {
		if err := durable.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("index of blocks: %w", err)
		}
	}
	// Memory per connection: 1 MiB of pages.
	const settings = "_txlock=immediate&_pragma=busy_timeout(60000)&_pragma=journal_mode(wal)" +
		"&_pragma=synchronous(full)&_pragma=cache_size(-1024)"
	name := filepath.Join(dir, File)
	dsn := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: name}).EscapedPath(), RawQuery: settings}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("index of blocks: %s: %w", name, err)
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	x := &Index{dir: dir, db: db}
	if _, err = db.Exec(schema); err == nil {
		err = x.stmts.prepare(db)
	}
	if err == nil {
		err = Give(dir, missing)
	}
	var fault *sqlite.Error
	if errors.As(err, &fault) && (fault.Code()&0xff == sqlite3.SQLITE_CORRUPT || fault.Code()&0xff == sqlite3.SQLITE_NOTADB) {
		err = fmt.Errorf("%w: stop what uses the folder, remove this file, and have ersatz fsck --repair make it anew", err)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("index of blocks: %s: %w", name, err), x.Close())
	}
	return x, nil
}

// missing returns what Open makes in a folder.
func missing(dir string) (names []string) {
	for _, name := range []string{Dir, TreeDir, TorrentDir, File, File + "-wal", File + "-shm"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			names = append(names, name)
		}
	}
	return names
}

// Give gives what root has made in a folder, if it is there, to the folder's
// owner.
func Give(dir string, names []string) error {
	fi, err := os.Stat(dir)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	owner := fi.Sys().(*syscall.Stat_t)
	for _, name := range names {
		err := os.Lchown(filepath.Join(dir, name), int(owner.Uid), int(owner.Gid))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close closes the index.
func (x *Index) Close() error { return errors.Join(x.stmts.close(), x.db.Close()) }

func (x *Index) treePath(base string) string { return filepath.Join(x.dir, TreeDir, base) }

// update runs fn in a transaction, the only one that writes in this process.
func (x *Index) update(ctx context.Context, fn func(tx *sql.Tx) error) error {
	x.write.Lock()
	defer x.write.Unlock()
	tx, err := x.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("index of blocks: %w", err)
	}
	defer tx.Rollback() // nothing after Commit
	if err := fn(tx); err != nil {
		return fmt.Errorf("index of blocks: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("index of blocks: %w", err)
	}
	return nil
}

// Item is what the index says of an item.
type Item struct {
	Base     string // last component of its store path
	Hash     string // hash part of it
	Nar      string // file that its blocks are made from, relative to the cache folder
	Manifest string // CID of the manifest in IPFS; "" if it was not put there

	id   int64
	rows int64
}

const itemColumns = `id, hash, base, nar, rows, coalesce(manifest, '')`

func (i *Item) fields() []any { return []any{&i.id, &i.Hash, &i.Base, &i.Nar, &i.rows, &i.Manifest} }

// Item returns the item with a hash part, or an error that matches ErrNoItem.
func (x *Index) Item(ctx context.Context, hash string) (Item, error) {
	return item(ctx, x.stmts.item, hash)
}

// Next returns the first item whose hash part comes after the given one, in
// the order of bytes, or an error that matches ErrNoItem. With unput, only
// items count that have no manifest.
func (x *Index) Next(ctx context.Context, after string, unput bool) (Item, error) {
	return item(ctx, x.stmts.next[unput], after)
}

// nextQuery is apart for the test that it reads no more than one row: the
// putter asks after each bake.
func nextQuery(unput bool) string {
	where := ``
	if unput {
		where = ` AND manifest IS NULL`
	}
	return `SELECT ` + itemColumns + ` FROM items WHERE hash > ?` + where + ` ORDER BY hash LIMIT 1`
}

// item returns the item that a statement finds. It waits for nobody, so that ctx is
// looked at once: to be woken by it would take a goroutine.
func item(ctx context.Context, query *sql.Stmt, args ...any) (i Item, err error) {
	if err = ctx.Err(); err == nil {
		err = query.QueryRowContext(context.WithoutCancel(ctx), args...).Scan(i.fields()...)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return i, ErrNoItem
	}
	if err != nil {
		return i, fmt.Errorf("index of blocks: %w", err)
	}
	return i, nil
}

// SetManifest notes the CID of the manifest under which an item was put into
// IPFS; "" means that it is there no more.
func (x *Index) SetManifest(ctx context.Context, hash, cid string) error {
	return x.update(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE items SET manifest = nullif(?, '') WHERE hash = ?`, cid, hash)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, fmt.Errorf("%s: %w", hash, ErrNoItem))
		}
		return nil
	})
}

// Remove removes an item: its rows in one transaction, then its tree file and its
// torrent. One that is not there is no error.
func (x *Index) Remove(ctx context.Context, hash string) error {
	i, err := x.Item(ctx, hash)
	if errors.Is(err, ErrNoItem) {
		return nil
	}
	if err != nil {
		return err
	}
	t, err := openTree(x.treePath(i.Base))
	if err == nil {
		defer t.close()
	}
	err = x.update(ctx, func(tx *sql.Tx) error { return x.deleteItem(ctx, tx, t, hash) })
	if err != nil {
		return err
	}
	for _, dir := range []string{TreeDir, TorrentDir} {
		err := durable.Remove(filepath.Join(x.dir, dir, i.Base))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
