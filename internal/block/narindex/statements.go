package narindex

import (
	"database/sql"
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// statements are those that are run for each item, parsed once for a connection.
type statements struct {
	lookup  *sql.Stmt          // rows of a reference
	item    *sql.Stmt          // the item with a hash part
	next    map[bool]*sql.Stmt // nextQuery
	add     *sql.Stmt          // an item, which has no rows yet
	count   *sql.Stmt          // notes its rows
	addRows byRows

	all []*sql.Stmt
}

// prepare prepares all. close is due also after an error.
func (s *statements) prepare(db *sql.DB) (err error) {
	one := func(text string) (stmt *sql.Stmt) {
		if err == nil {
			if stmt, err = db.Prepare(text); err == nil {
				s.all = append(s.all, stmt)
			}
		}
		return stmt
	}
	s.lookup = one(`SELECT b.node, i.id, i.hash, i.base, i.nar FROM blocks b JOIN items i ON i.id = b.item
		WHERE b.ref = ? AND (b.item, b.node) > (?, ?) ORDER BY b.item, b.node LIMIT ` + fmt.Sprint(maxCandidates))
	s.item = one(`SELECT ` + itemColumns + ` FROM items WHERE hash = ?`)
	s.next = map[bool]*sql.Stmt{false: one(nextQuery(false)), true: one(nextQuery(true))}
	s.add = one(`INSERT INTO items (hash, base, nar, rows) VALUES (?, ?, ?, 0)`)
	s.count = one(`UPDATE items SET rows = ? WHERE id = ?`)
	for i := range s.addRows {
		s.addRows[i] = one(forRows(i, `INSERT INTO blocks (ref, item, node) VALUES `, `(?, ?, ?)`, `, `))
	}
	return err
}

func (s *statements) close() error {
	var errs []error
	for _, stmt := range s.all {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(errs...)
}

// byRows are statements for 1, 2, 4 and so on up to rowsPerStatement rows, which
// take reference, item and node of each. Most items have a few rows.
type byRows [7]*sql.Stmt

const rowsPerStatement = 1 << (len(byRows{}) - 1)

// forRows returns the text of the statement at i of a byRows: head, and then, for
// each row, one.
func forRows(i int, head, one, between string) string {
	return head + strings.Repeat(one+between, 1<<i-1) + one
}

// sizeOf returns the place in a byRows of the statement for the most rows out of n, 1
// at least.
func sizeOf(n int) int { return min(bits.Len(uint(n)), len(byRows{})) - 1 }
