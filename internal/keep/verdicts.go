package keep

import (
	"context"
	"database/sql"

	"ersatz/eris"
	"ersatz/internal/block"
)

// verdictSchema is what the catalog has of a library's judge: by which name, and
// what it has said of an item that came at a time. Without cap the item may not be
// given. Blocks are given by what the judge of this process says, whatever stands
// here.
const verdictSchema = `
BEGIN;
CREATE TABLE IF NOT EXISTS judges (name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS verdicts (
	hash TEXT PRIMARY KEY, came INTEGER NOT NULL, cap BLOB, magnet TEXT NOT NULL) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS unsaid AFTER DELETE ON items BEGIN
	DELETE FROM verdicts WHERE hash = old.hash; END;
COMMIT;`

// judgedQuery reads the rows of a page, and no others.
const judgedQuery = `SELECT items.hash, items.came, items.length, verdicts.hash IS NOT NULL, verdicts.cap, coalesce(verdicts.magnet, '')
	FROM items LEFT JOIN verdicts ON verdicts.hash = items.hash AND verdicts.came = items.came
	WHERE items.hash > ? ORDER BY items.hash LIMIT ?`

// judged is an item, and what was said of it.
type judged struct {
	version
	length  int64
	known   bool
	verdict verdict // if known
}

// judgedPage returns the items after a hash part, in the order of these: fewer than
// pageCards if there are no more.
func (c *catalog) judgedPage(ctx context.Context, after string) (page []judged, err error) {
	rows, err := c.db.QueryContext(ctx, judgedQuery, after, pageCards)
	if err != nil {
		return nil, wrapCatalog(err)
	}
	defer rows.Close() // they were only read
	for rows.Next() {
		var j judged
		var rc []byte
		var magnet string
		if err := rows.Scan(&j.hash, &j.came, &j.length, &j.known, &rc, &magnet); err != nil {
			return nil, wrapCatalog(err)
		}
		if rc != nil {
			parsed, err := eris.ParseReadCap(rc)
			j.known = err == nil // else it is judged anew
			j.verdict = verdict{ok: true, shared: block.Shared{ReadCap: parsed, Length: j.length, Magnet: magnet}}
		}
		page = append(page, j)
	}
	return page, wrapCatalog(rows.Err())
}

// judgedBy says by which name is judged from now on. What another one has said is
// forgotten.
func (c *catalog) judgedBy(ctx context.Context, name string) error {
	const same = `SELECT count(*) FROM judges WHERE name = ?`
	var n int
	if err := c.db.QueryRowContext(ctx, same, name).Scan(&n); err != nil || n > 0 {
		return wrapCatalog(err)
	}
	return c.update(ctx, func(tx *sql.Tx) error {
		for _, q := range []string{`DELETE FROM verdicts`, `DELETE FROM judges`} {
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO judges (name) VALUES (?)`, name)
		return err
	})
}

// say notes what was said of items that are still there.
func (c *catalog) say(ctx context.Context, all []judged) error {
	if len(all) == 0 {
		return nil
	}
	return c.update(ctx, func(tx *sql.Tx) error {
		for _, j := range all {
			var rc []byte
			if j.verdict.ok {
				rc = j.verdict.shared.ReadCap.Bytes()
			}
			_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO verdicts (hash, came, cap, magnet)
				SELECT hash, came, ?, ? FROM items WHERE hash = ? AND came = ?`, rc, j.verdict.shared.Magnet, j.hash, j.came)
			if err != nil {
				return err
			}
		}
		return nil
	})
}
