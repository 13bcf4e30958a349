package storedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// sqliteDB reads the database file. The daemon keeps it in WAL mode, where
// readers and the writer do not wait for each other.
type sqliteDB struct {
	db       *sql.DB
	hash     *sql.Stmt
	path     *sql.Stmt
	storeDir string
}

// openSQLite opens the file and reads from it once: one that lies in a folder
// without write permission can be opened, and then not be read.
func openSQLite(file, storeDir string) (*sqliteDB, error) {
	dsn := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: file}).EscapedPath(), RawQuery: "mode=ro&_pragma=busy_timeout(5000)"}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	db.SetMaxOpenConns(4)
	s := &sqliteDB{db: db, storeDir: storeDir}
	prepare := func(query string) (stmt *sql.Stmt) {
		if err == nil {
			stmt, err = db.Prepare(query)
		}
		return stmt
	}
	// A range instead of LIKE, which would not use the index.
	s.hash = prepare(`SELECT path FROM ValidPaths WHERE path >= ? AND path < ? LIMIT 1`)
	// One statement, since the collector may delete between two.
	s.path = prepare(`SELECT p.hash, coalesce(p.narSize, 0), coalesce(p.deriver, ''), p.registrationTime, coalesce(r.path, '')
		FROM ValidPaths p LEFT JOIN Refs ON referrer = p.id LEFT JOIN ValidPaths r ON reference = r.id
		WHERE p.path = ? ORDER BY r.path`)
	if err == nil {
		_, err = s.byHash(context.Background(), "")
		if errors.Is(err, ErrNotFound) {
			err = nil
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", file, err), db.Close())
	}
	return s, nil
}

func (s *sqliteDB) close() error { return s.db.Close() }

func (s *sqliteDB) byHash(ctx context.Context, hash string) (path string, err error) {
	first := s.storeDir + "/" + hash + "-"
	after := s.storeDir + "/" + hash + "." // the character after the dash
	if err = s.hash.QueryRowContext(ctx, first, after).Scan(&path); errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return path, err
}

func (s *sqliteDB) info(ctx context.Context, path string) (r record, err error) {
	rows, err := s.path.QueryContext(ctx, path)
	if err != nil {
		return r, err
	}
	defer rows.Close()
	found := false
	for rows.Next() {
		var ref string
		if err := rows.Scan(&r.hash, &r.narSize, &r.deriver, &r.registered, &ref); err != nil {
			return r, err
		}
		found = true
		if ref != "" { // else it refers to nothing
			r.references = append(r.references, ref)
		}
	}
	if err := rows.Err(); err != nil || found {
		return r, err
	}
	return r, ErrNotFound
}
