package share

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/durable"
)

// state remembers what networks were given that keep it. Rows of a network that
// is not fed any more stay, for when it is again. What a power cut takes from
// it is put again.
type state struct{ db *sql.DB }

const schema = `CREATE TABLE IF NOT EXISTS shares (
	network TEXT NOT NULL, root BLOB NOT NULL, cap BLOB NOT NULL, length INTEGER NOT NULL, magnet TEXT NOT NULL,
	offered INTEGER NOT NULL, note TEXT NOT NULL,
	PRIMARY KEY (network, root)) WITHOUT ROWID;`

func openState(name string) (*state, error) {
	if err := durable.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, err
	}
	const settings = "_txlock=immediate&_pragma=busy_timeout(60000)&_pragma=journal_mode(wal)" +
		"&_pragma=synchronous(normal)&_pragma=cache_size(-1024)"
	dsn := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: name}).EscapedPath(), RawQuery: settings}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(schema); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), db.Close())
	}
	return &state{db}, nil
}

func (s *state) close() error { return s.db.Close() }

// each calls visit for each content that a network was given, and when.
func (s *state) each(ctx context.Context, network string, visit func(block.Shared, time.Time)) (err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT cap, length, magnet, offered FROM shares WHERE network = ?`, network)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var rc []byte
		var x block.Shared
		var offered int64
		if err := rows.Scan(&rc, &x.Length, &x.Magnet, &offered); err != nil {
			return fmt.Errorf("state: %w", err)
		}
		if x.ReadCap, err = eris.ParseReadCap(rc); err != nil {
			return fmt.Errorf("state: %w", err)
		}
		visit(x, time.Unix(offered, 0))
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// put notes that a network was given a content now, and what it said.
func (s *state) put(ctx context.Context, network string, x block.Shared, note string) error {
	root := x.ReadCap.Root
	_, err := s.db.ExecContext(ctx, `INSERT OR REPLACE INTO shares (network, root, cap, length, magnet, offered, note) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		network, root[:], x.ReadCap.Bytes(), x.Length, x.Magnet, time.Now().Unix(), note)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// note returns what a network said of a content; "" if nothing is known of it.
func (s *state) note(ctx context.Context, network string, root eris.Ref) (note string, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT note FROM shares WHERE network = ? AND root = ?`, network, root[:]).Scan(&note)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("state: %w", err)
	}
	return note, nil
}

// forget notes that a content was taken back.
func (s *state) forget(ctx context.Context, network string, root eris.Ref) error {
	if _, err := s.db.ExecContext(ctx, `DELETE FROM shares WHERE network = ? AND root = ?`, network, root[:]); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}
