package storedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// sqliteDB reads the database file. The daemon keeps it in WAL mode, where
// readers and the writer do not wait for each other.
type sqliteDB struct {
	db       *sql.DB
	hash     *sql.Stmt
	path     *sql.Stmt
	both     *sql.Stmt
	storeDir string
}

// maxConns bounds the connections to the database. Each has a cache of 2 MiB.
const maxConns = 4

// openSQLite opens the file and reads from it once: one that lies in a folder
// without write permission can be opened, and then not be read.
func openSQLite(file, storeDir string) (*sqliteDB, error) {
	dsn := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: file}).EscapedPath(), RawQuery: "mode=ro&_pragma=busy_timeout(5000)"}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns) // by default 2: others would read the schema again and again
	s := &sqliteDB{db: db, storeDir: storeDir}
	prepare := func(query string) (stmt *sql.Stmt) {
		if err == nil {
			stmt, err = db.Prepare(query)
		}
		return stmt
	}
	// A range instead of LIKE, which would not use the index.
	s.hash = prepare(`SELECT path FROM ValidPaths WHERE path >= ? AND path < ? LIMIT 1`)
	// One statement, since the collector may delete between two; and one row,
	// since a row of its own for each reference takes twice the time.
	const columns = `SELECT p.path, p.hash, coalesce(p.narSize, 0), coalesce(p.deriver, ''), p.registrationTime,
		coalesce((SELECT group_concat(r.path, char(10)) FROM Refs JOIN ValidPaths r ON reference = r.id WHERE referrer = p.id), '')
		FROM ValidPaths p `
	s.path = prepare(columns + `WHERE p.path = ?`)
	s.both = prepare(columns + `WHERE p.path >= ? AND p.path < ? LIMIT 1`)
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

// between returns the bounds of paths with a hash part.
func (s *sqliteDB) between(hash string) (first, after string) {
	return s.storeDir + "/" + hash + "-", s.storeDir + "/" + hash + "." // the character after the dash
}

// one reads the only row of a query. The query is not broken off where ctx ends
// meanwhile: it takes microseconds, or the time-out of a busy database, and two
// goroutines that wait for the end of ctx are a third of it.
func one(ctx context.Context, query *sql.Stmt, args []any, into ...any) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := query.QueryRowContext(context.WithoutCancel(ctx), args...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

func (s *sqliteDB) byHash(ctx context.Context, hash string) (path string, err error) {
	first, after := s.between(hash)
	err = one(ctx, s.hash, []any{first, after}, &path)
	return path, err
}

func (s *sqliteDB) info(ctx context.Context, path string) (record, error) {
	_, r, err := item(ctx, s.path, path)
	return r, err
}

func (s *sqliteDB) lookup(ctx context.Context, hash string) (path string, r record, err error) {
	first, after := s.between(hash)
	return item(ctx, s.both, first, after)
}

// item reads the row of an item.
func item(ctx context.Context, query *sql.Stmt, args ...any) (path string, r record, err error) {
	var refs string
	err = one(ctx, query, args, &path, &r.hash, &r.narSize, &r.deriver, &r.registered, &refs)
	if refs != "" {
		r.references = strings.Split(refs, "\n")
		slices.Sort(r.references)
	}
	return path, r, err
}
