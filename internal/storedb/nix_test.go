package storedb_test

import (
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"ersatz/internal/storedb"
	"ersatz/internal/wire"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

// nixSchema is that of Nix 2.8 (libstore/schema.sql).
const nixSchema = `
create table if not exists ValidPaths (
    id integer primary key autoincrement not null, path text unique not null, hash text not null,
    registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text, ca text);
create table if not exists Refs (
    referrer integer not null, reference integer not null, primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict);
create index if not exists IndexReferrer on Refs(referrer);
create index if not exists IndexReference on Refs(reference);`

func nixPath(t *testing.T, base string) storepath.Path {
	t.Helper()
	p, err := storepath.ParseBase(storepath.Nix, base)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestNixSQLite reads a database of Nix, with each journal and each spelling
// of hashes that it can have.
func TestNixSQLite(t *testing.T) {
	sum := sha256.Sum256([]byte("nar"))
	for name, hash := range map[string]string{
		"hexadecimal": "sha256:" + hex.EncodeToString(sum[:]),
		"nixbase32":   "sha256:" + nixbase32.Encode(sum[:]),
		"Base64":      "sha256:" + base64.StdEncoding.EncodeToString(sum[:]),
		"SRI":         "sha256-" + base64.StdEncoding.EncodeToString(sum[:]),
	} {
		for _, journal := range []string{"wal", "truncate"} {
			t.Run(name+" "+journal, func(t *testing.T) {
				state := t.TempDir()
				if err := os.Mkdir(filepath.Join(state, "db"), 0o755); err != nil {
					t.Fatal(err)
				}
				w, err := sql.Open("sqlite", "file:"+filepath.Join(state, "db", "db.sqlite"))
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				dep, item := nixPath(t, depBase), nixPath(t, itemBase)
				const insert = `insert into ValidPaths (path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca) values (?, ?, 1234, ?, 99, 1, 'a:b c:d', ?)`
				for _, q := range []struct {
					text string
					args []any
				}{
					{"pragma journal_mode = " + journal, nil},
					{nixSchema, nil},
					{insert, []any{dep.String(), hash, nil, "text:sha256:x"}},
					{insert, []any{item.String(), hash, "/nix/store/ccccccccccccccccccccccccccccccc3-item.drv", nil}},
					{"insert into Refs values (2, 1), (2, 2)", nil},
				} {
					if _, err := w.Exec(q.text, q.args...); err != nil {
						t.Fatal(err)
					}
				}
				db, err := storedb.Open(storedb.Options{StoreDir: storepath.Nix, StateDir: state})
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				want := storedb.Info{
					Path: item, NarHash: sum, NarSize: 99, References: []storepath.Path{dep, item},
					Deriver: "/nix/store/ccccccccccccccccccccccccccccccc3-item.drv", Registered: time.Unix(1234, 0),
				}
				if got, err := db.Info(t.Context(), item); err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("info %+v, %v", got, err)
				}
				if got, err := db.ByHash(t.Context(), dep.Hash); err != nil || got != dep {
					t.Errorf("by hash: %v, %v", got, err)
				}
				if got, err := db.Closure(t.Context(), []storepath.Path{item}); err != nil || len(got) != 2 {
					t.Errorf("closure %v, %v", got, err)
				}
			})
		}
	}
}

// TestNixDaemon asks a daemon that speaks as that of Nix 2.8 does to a client
// of protocol 1.18.
func TestNixDaemon(t *testing.T) {
	item, dep := nixPath(t, itemBase), nixPath(t, depBase)
	socket := startDaemon(t, &fakeDaemon{
		greet: wire.AppendUint64(wire.AppendUint64(nil, 0x6478696f), 0x122),
		answers: func(op uint64, arg string) answer {
			switch {
			case op == opByHash && arg == item.Hash:
				return answer{bytes: said(item.String())}
			case op == opInfo && arg == item.String():
				return answer{bytes: said(1, "", goodHash, 1, dep.String(), 1234, 99, 1, 2, "a:b", "c:d", "fixed:r:sha256:x")}
			case op == opInfo:
				return answer{bytes: said(0)}
			}
			return answer{bytes: said("")}
		},
	}).socket
	db, err := storedb.Open(storedb.Options{StoreDir: storepath.Nix, StateDir: filepath.Dir(socket), Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for range 2 { // all of an answer was read
		if got, err := db.ByHash(t.Context(), item.Hash); err != nil || got != item {
			t.Errorf("by hash: %v, %v", got, err)
		}
		if got, err := db.Info(t.Context(), item); err != nil || got.NarSize != 99 || len(got.References) != 1 || got.References[0] != dep {
			t.Errorf("info %+v, %v", got, err)
		}
		if _, err := db.Info(t.Context(), dep); !errors.Is(err, storedb.ErrNotFound) {
			t.Errorf("an item that is not valid: %v", err)
		}
	}
}

func TestStateDir(t *testing.T) {
	for store, want := range map[string]string{storepath.Guix: "/var/guix", storepath.Nix: "/nix/var/nix", "/x": "/var/guix"} {
		if got := storedb.StateDir(store); got != want {
			t.Errorf("%s: %s", store, got)
		}
	}
}
