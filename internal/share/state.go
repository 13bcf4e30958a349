package share

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

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

// errBroken means that a file is no state, or none that is whole.
var errBroken = errors.New("broken")

// openState opens a state, which it makes if there is none. One that is broken is set
// aside: what it said is put again.
func openState(name string, log *slog.Logger) (*state, error) {
	s, err := tryState(name)
	if !errors.Is(err, errBroken) {
		return s, err
	}
	aside := name + ".broken"
	for _, tail := range []string{"-wal", "-shm", ""} { // the file last: without it the others are of nothing
		if rerr := os.Rename(name+tail, aside+tail); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			return nil, errors.Join(err, rerr)
		}
	}
	log.Warn("what networks were given is forgotten: they are offered all of it again, and keep what has left meanwhile",
		slog.Any("error", err), slog.String("set_aside", aside))
	return tryState(name)
}

// tryState is openState, whose error matches errBroken.
func tryState(name string) (*state, error) {
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
	_, err = db.Exec(schema)
	said := "ok"
	if err == nil { // all of it is read, as it is for each network afterwards
		err = db.QueryRow(`PRAGMA quick_check(1)`).Scan(&said)
	}
	var fault *sqlite.Error
	switch {
	case errors.As(err, &fault) && (fault.Code()&0xff == sqlite3.SQLITE_CORRUPT || fault.Code()&0xff == sqlite3.SQLITE_NOTADB):
		err = fmt.Errorf("%w: %w", errBroken, err)
	case err == nil && said != "ok":
		err = fmt.Errorf("%w: %s", errBroken, said)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), db.Close())
	}
	return &state{db}, nil
}

func (s *state) close() error { return s.db.Close() }

// each calls visit for each content that a network was given, and when. A row that
// is broken is left out.
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
		var broken error
		if x.ReadCap, broken = eris.ParseReadCap(rc); broken == nil { // else it is put again
			visit(x, time.Unix(offered, 0))
		}
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
