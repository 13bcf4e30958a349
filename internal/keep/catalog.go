package keep

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"ersatz/internal/block/narindex"
)

// catalogFile has a row for each item, so that neither memory nor the time of a
// start grows with what is kept. It says nothing that the records do not say:
// what is lost of it is found again by Settle.
const catalogFile = "kept.sqlite"

// catalogSchema: nar is the first 8 bytes of NarHash. ahead says that nobody has
// asked for an item yet.
const catalogSchema = `
BEGIN;
CREATE TABLE IF NOT EXISTS items (
	hash TEXT PRIMARY KEY, nar INTEGER NOT NULL, length INTEGER NOT NULL, size INTEGER NOT NULL,
	came INTEGER NOT NULL, used INTEGER NOT NULL, ahead INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS nars ON items(nar);
CREATE INDEX IF NOT EXISTS turns ON items(ahead, used);
CREATE TABLE IF NOT EXISTS totals (items INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO totals SELECT 0, 0 WHERE NOT EXISTS (SELECT * FROM totals);
CREATE TRIGGER IF NOT EXISTS came AFTER INSERT ON items BEGIN
	UPDATE totals SET items = items + 1, bytes = bytes + new.size; END;
CREATE TRIGGER IF NOT EXISTS gone AFTER DELETE ON items BEGIN
	UPDATE totals SET items = items - 1, bytes = bytes - old.size; END;
COMMIT;`

// card is the row of an item.
type card struct {
	hash   string
	nar    int64 // narKey
	length int64 // of the compressed nar, in bytes
	size   int64 // of nar, tree file and record, as allocated
	came   int64 // in Unix nanoseconds, as used
	used   int64 // when it was last asked for, or else when it came
	ahead  bool  // nobody has asked for it
}

// narKey is what a nar is looked for by. Others may have the same.
func narKey(narHash [32]byte) int64 { return int64(binary.BigEndian.Uint64(narHash[:])) }

const cardColumns = `hash, nar, length, size, came, used, ahead`

func (c *card) fields() []any {
	return []any{&c.hash, &c.nar, &c.length, &c.size, &c.came, &c.used, &c.ahead}
}

// catalog is safe for concurrent use.
type catalog struct {
	db         *sql.DB
	byNar, get *sql.Stmt
}

// openCatalog opens the catalog of a state folder. One that cannot be used is made
// anew.
func openCatalog(dir string) (*catalog, error) {
	c, err := tryCatalog(dir)
	if err == nil {
		return c, nil
	}
	for _, name := range catalogFiles() {
		if rerr := os.Remove(filepath.Join(dir, name)); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			return nil, errors.Join(err, rerr)
		}
	}
	return tryCatalog(dir)
}

func catalogFiles() []string {
	return []string{catalogFile, catalogFile + "-wal", catalogFile + "-shm"}
}

func tryCatalog(dir string) (*catalog, error) {
	var missing []string
	for _, name := range catalogFiles() {
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, name)
		}
	}
	// What a power cut takes of it is found again, so that nothing is synced but
	// what keeps it whole. The quota counts its log too, which is kept short. Memory
	// per connection: 1 MiB of pages.
	const settings = "_txlock=immediate&_pragma=busy_timeout(60000)&_pragma=journal_mode(wal)" +
		"&_pragma=synchronous(normal)&_pragma=cache_size(-1024)&_pragma=wal_autocheckpoint(16)&_pragma=journal_size_limit(262144)"
	name := filepath.Join(dir, catalogFile)
	dsn := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: name}).EscapedPath(), RawQuery: settings}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)
	c := &catalog{db: db}
	if _, err = db.Exec(catalogSchema + verdictSchema); err == nil {
		c.byNar, err = db.Prepare(byNarQuery)
	}
	if err == nil {
		c.get, err = db.Prepare(`SELECT ` + cardColumns + ` FROM items WHERE hash = ?`)
	}
	if err == nil {
		err = narindex.Give(dir, missing)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), db.Close())
	}
	return c, nil
}

func (c *catalog) close() error { return errors.Join(c.byNar.Close(), c.get.Close(), c.db.Close()) }

// totals returns how many items there are, and what they take.
func (c *catalog) totals() (items int, bytes int64, err error) {
	err = c.db.QueryRow(`SELECT items, bytes FROM totals`).Scan(&items, &bytes)
	return items, bytes, wrapCatalog(err)
}

func wrapCatalog(err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", catalogFile, err)
	}
	return nil
}

// card returns the row of an item. ok is false if there is none.
func (c *catalog) card(ctx context.Context, hash string) (x card, ok bool, err error) {
	err = c.get.QueryRowContext(ctx, hash).Scan(x.fields()...)
	if errors.Is(err, sql.ErrNoRows) {
		return x, false, nil
	}
	return x, err == nil, wrapCatalog(err)
}

// The queries read no more rows than they give: there is a test.
const (
	byNarQuery  = `SELECT hash FROM items WHERE nar = ?`
	pageQuery   = `SELECT ` + cardColumns + ` FROM items WHERE hash > ? ORDER BY hash LIMIT ?`
	aheadQuery  = `SELECT hash, used FROM items WHERE ahead = 1 AND used <= ? ORDER BY used`
	oldestQuery = `SELECT hash, used FROM items WHERE ahead = 0
		UNION ALL SELECT hash, used FROM items WHERE ahead = 1 AND used > ? ORDER BY used`
)

// withNar returns the items that may have a nar.
func (c *catalog) withNar(ctx context.Context, narHash [32]byte) (hashes []string, err error) {
	rows, err := c.byNar.QueryContext(ctx, narKey(narHash))
	if err != nil {
		return nil, wrapCatalog(err)
	}
	defer rows.Close() // they were only read
	for rows.Next() {
		var hash string
		if err := rows.Scan(&hash); err != nil {
			return nil, wrapCatalog(err)
		}
		hashes = append(hashes, hash)
	}
	return hashes, wrapCatalog(rows.Err())
}

// pageCards is how many rows are read or written at once.
const pageCards = 256

// page returns the rows after a hash part, in the order of these: fewer than
// pageCards if there are no more.
func (c *catalog) page(ctx context.Context, after string) (page []card, err error) {
	rows, err := c.db.QueryContext(ctx, pageQuery, after, pageCards)
	if err != nil {
		return nil, wrapCatalog(err)
	}
	defer rows.Close() // they were only read
	for rows.Next() {
		var x card
		if err := rows.Scan(x.fields()...); err != nil {
			return nil, wrapCatalog(err)
		}
		page = append(page, x)
	}
	return page, wrapCatalog(rows.Err())
}

// oldest calls visit with items in the order in which they are to go, until it
// returns false: what was fetched ahead by a time and not asked for, then what was
// used least recently. It reports whether these were all.
func (c *catalog) oldest(ctx context.Context, aheadBy int64, visit func(hash string, used int64, ahead bool) bool) (all bool, err error) {
	for _, query := range []string{aheadQuery, oldestQuery} {
		more, err := c.each(ctx, query, aheadBy, func(hash string, used int64) bool { return visit(hash, used, query == aheadQuery) })
		if !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (c *catalog) each(ctx context.Context, query string, arg int64, visit func(hash string, used int64) bool) (more bool, err error) {
	rows, err := c.db.QueryContext(ctx, query, arg)
	if err != nil {
		return false, wrapCatalog(err)
	}
	defer rows.Close() // they were only read
	for rows.Next() {
		var hash string
		var used int64
		if err := rows.Scan(&hash, &used); err != nil {
			return false, wrapCatalog(err)
		}
		if !visit(hash, used) {
			return false, nil
		}
	}
	return true, wrapCatalog(rows.Err())
}

// put adds rows, or replaces them.
func (c *catalog) put(ctx context.Context, cards ...card) error {
	return c.update(ctx, func(tx *sql.Tx) error {
		for _, x := range cards {
			if _, err := tx.ExecContext(ctx, `DELETE FROM items WHERE hash = ?`, x.hash); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO items (`+cardColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?)`,
				x.hash, x.nar, x.length, x.size, x.came, x.used, x.ahead)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// note notes when items were last asked for.
func (c *catalog) note(ctx context.Context, asked map[string]int64) error {
	if len(asked) == 0 {
		return nil
	}
	return c.update(ctx, func(tx *sql.Tx) error {
		for hash, used := range asked {
			if _, err := tx.ExecContext(ctx, `UPDATE items SET used = ?, ahead = 0 WHERE hash = ?`, used, hash); err != nil {
				return err
			}
		}
		return nil
	})
}

// remove removes the row of an item, if there is one.
func (c *catalog) remove(ctx context.Context, hash string) error {
	_, err := c.db.ExecContext(ctx, `DELETE FROM items WHERE hash = ?`, hash)
	return wrapCatalog(err)
}

// update runs fn in a transaction.
func (c *catalog) update(ctx context.Context, fn func(tx *sql.Tx) error) error {
	tx, err := c.db.BeginTx(ctx, nil)
	if err != nil {
		return wrapCatalog(err)
	}
	defer tx.Rollback() // nothing after Commit
	if err := fn(tx); err != nil {
		return wrapCatalog(err)
	}
	return wrapCatalog(tx.Commit())
}
