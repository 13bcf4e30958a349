package bench

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"

	"ersatz/internal/storedb"
)

const (
	// firstTime are items of which each is asked for once, firstSeconds is for how
	// long: fewer than all of them are then.
	firstTime    = 80_000
	firstSeconds = 2

	// firstRefs is how many others each refers to.
	firstRefs = 5
)

// firstTimes are programs that sign narinfos of items which they have not been
// asked for yet: a new server each time.
func (s *site) firstTimes(ctx context.Context, programs ...string) (sides []*side, err error) {
	if err := s.register(ctx, firstTime); err != nil {
		return nil, err
	}
	var paths []string
	for i := range firstTime {
		paths = append(paths, "/"+crowdItem(i).Hash+".narinfo")
	}
	script, err := wrkScript(s.dir, "first.lua", paths)
	if err != nil {
		return nil, err
	}
	for _, program := range programs {
		sides = append(sides, &side{name: program, once: func(ctx context.Context) (usage, error) {
			server, err := serve(ctx, s.origin, program, "--compression=zstd:1")
			if err != nil {
				return usage{}, err
			}
			defer server.Stop()
			u, err := wrkSide(program, s.o, server, "", []string{"-c8", "-s", script, fmt.Sprintf("-d%ds", firstSeconds)}).once(ctx)
			if err == nil && u.rate*firstSeconds > firstTime*0.9 {
				err = fmt.Errorf("%.0f per second: %d items are too few", u.rate, firstTime)
			}
			return u, err
		}})
	}
	return sides, nil
}

// registerScript copies the rows of one store's database to another's.
const registerScript = `(use-modules (sqlite3))
(define db (sqlite-open "/var/guix/db/db.sqlite" SQLITE_OPEN_READWRITE))
(for-each (lambda (statement) (sqlite-exec db statement))
  '("ATTACH '/root/crowd.sqlite' AS crowd"
    "INSERT INTO main.ValidPaths (id, path, hash, registrationTime, deriver, narSize)
     SELECT id + 1000000, path, hash, registrationTime, deriver, narSize FROM crowd.ValidPaths"
    "INSERT INTO main.Refs SELECT referrer + 1000000, reference + 1000000 FROM crowd.Refs"))
(sqlite-close db)
`

// register adds the first n items of a crowd to the database of the origin's
// store, from within: SQLite takes /proc/PID/root for a link to this machine's
// root.
func (s *site) register(ctx context.Context, n int) error {
	dir := filepath.Join(s.dir, "crowd")
	const script = "/root/register.scm"
	err := registerCrowd(ctx, dir, n)
	if err == nil {
		err = errors.Join(s.origin.CopyFile(filepath.Join(dir, "db", "db.sqlite"), "/root/crowd.sqlite", 0o600),
			s.origin.WriteFile(script, []byte(registerScript), 0o644))
	}
	if err == nil {
		_, err = s.origin.Run(ctx, "guix", "repl", script)
	}
	return err
}

// registerCrowd adds the first n items of a crowd to a store's database, in one
// transaction. They are not in the store, which nobody looks at before a nar is
// asked for.
func registerCrowd(ctx context.Context, stateDir string, n int) (err error) {
	w, err := storedb.Create(stateDir)
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(stateDir, "db", "db.sqlite")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing after Commit
	item, err := tx.PrepareContext(ctx, `INSERT INTO ValidPaths (path, hash, registrationTime, deriver, narSize) VALUES (?, ?, 1, ?, ?)`)
	if err != nil {
		return err
	}
	defer item.Close()
	ref, err := tx.PrepareContext(ctx, `INSERT INTO Refs (referrer, reference) VALUES (?, ?)`)
	if err != nil {
		return err
	}
	defer ref.Close()
	var ids [firstRefs]int64 // of the last ones
	for i := range n {
		p := crowdItem(i).String()
		hash := "sha256:" + hex.EncodeToString(fmt.Appendf(nil, "%032d", i))
		res, err := item.ExecContext(ctx, p, hash, p+".drv", crowdSize)
		if err != nil {
			return err
		}
		id, err := res.LastInsertId()
		if err != nil {
			return err
		}
		for _, other := range ids[:min(i, firstRefs)] {
			if _, err := ref.ExecContext(ctx, id, other); err != nil {
				return err
			}
		}
		ids[i%firstRefs] = id
	}
	return tx.Commit()
}
