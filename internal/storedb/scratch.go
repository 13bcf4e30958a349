package storedb

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
)

// schema is that of a Guix store, as far as it is read here.
const schema = `
CREATE TABLE IF NOT EXISTS ValidPaths (
	id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, path TEXT UNIQUE NOT NULL, hash TEXT NOT NULL,
	registrationTime INTEGER NOT NULL, deriver TEXT, narSize INTEGER);
CREATE TABLE IF NOT EXISTS Refs (
	referrer INTEGER NOT NULL, reference INTEGER NOT NULL, PRIMARY KEY (referrer, reference),
	FOREIGN KEY (referrer) REFERENCES ValidPaths(id) ON DELETE CASCADE,
	FOREIGN KEY (reference) REFERENCES ValidPaths(id) ON DELETE RESTRICT);
CREATE INDEX IF NOT EXISTS IndexReferrer ON Refs(referrer);
CREATE INDEX IF NOT EXISTS IndexReference ON Refs(reference);`

// Scratch is the database of a store of our own making, for the demonstration
// and for tests. It is never used on a system's store.
type Scratch struct{ db *sql.DB }

// Create makes the database of a scratch store below stateDir.
func Create(stateDir string) (*Scratch, error) {
	dir := filepath.Join(stateDir, "db")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "db.sqlite")
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: file, RawQuery: "_pragma=journal_mode(wal)"}).String())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(schema); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", file, err), db.Close())
	}
	return &Scratch{db}, nil
}

// Close closes the database.
func (s *Scratch) Close() error { return s.db.Close() }

// Register adds a valid item. What it refers to, but for itself, is
// registered already.
func (s *Scratch) Register(ctx context.Context, i Info) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing after Commit
	_, err = tx.ExecContext(ctx, `INSERT INTO ValidPaths (path, hash, registrationTime, deriver, narSize) VALUES (?, ?, ?, nullif(?, ''), ?)`,
		i.Path.String(), "sha256:"+hex.EncodeToString(i.NarHash[:]), i.Registered.Unix(), i.Deriver, int64(i.NarSize))
	if err != nil {
		return fmt.Errorf("registering %s: %w", i.Path, err)
	}
	for _, ref := range i.References {
		res, err := tx.ExecContext(ctx, `INSERT INTO Refs SELECT a.id, b.id FROM ValidPaths a, ValidPaths b WHERE a.path = ? AND b.path = ?`,
			i.Path.String(), ref.String())
		if err != nil {
			return fmt.Errorf("registering %s: %w", i.Path, err)
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return fmt.Errorf("registering %s: reference %s is not valid: %w", i.Path, ref, errors.Join(err, ErrNotFound))
		}
	}
	return tx.Commit()
}

// Forget removes an item, as a garbage collector does.
func (s *Scratch) Forget(ctx context.Context, path string) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing after Commit
	if _, err := tx.ExecContext(ctx, `DELETE FROM Refs WHERE referrer IN (SELECT id FROM ValidPaths WHERE path = ?)`, path); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM ValidPaths WHERE path = ?`, path); err != nil {
		return err
	}
	return tx.Commit()
}
