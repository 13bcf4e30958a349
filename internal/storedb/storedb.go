// Package storedb reads what a store's database says of its items: what is
// valid, hash, size, references (Guix 1.5.0, nix/libstore/schema.sql; Nix,
// libstore/schema.sql). It reads the SQLite file, or, where that is not
// readable, asks the daemon over its socket.
package storedb

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"ersatz/narinfo"
	"ersatz/storepath"
)

// ErrNotFound means that the store has no such valid item.
var ErrNotFound = errors.New("not a valid store item")

// Info is what the database says of an item.
type Info struct {
	Path       storepath.Path
	NarHash    [32]byte
	NarSize    uint64
	References []storepath.Path // sorted
	Deriver    string           // absolute path; "" if unknown
	Registered time.Time
}

// Options say where a store is.
type Options struct {
	StoreDir string // default /gnu/store
	StateDir string // holds db/ and daemon-socket/; default StateDir(StoreDir)
	Socket   string // of the daemon; default StateDir/daemon-socket/socket
}

// StateDir returns where the state of the store in a folder usually is:
// /nix/var/nix for that of Nix, else /var/guix.
func StateDir(storeDir string) string {
	if storeDir == storepath.Nix {
		return "/nix/var/nix"
	}
	return "/var/guix"
}

func (o Options) defaults() Options {
	if o.StoreDir == "" {
		o.StoreDir = storepath.Guix
	}
	if o.StateDir == "" {
		o.StateDir = StateDir(o.StoreDir)
	}
	if o.Socket == "" {
		o.Socket = filepath.Join(o.StateDir, "daemon-socket", "socket")
	}
	return o
}

// backend answers with texts as the database has them.
type backend interface {
	byHash(ctx context.Context, hash string) (path string, err error)
	info(ctx context.Context, path string) (record, error)
	lookup(ctx context.Context, hash string) (path string, r record, err error) // both
	close() error
}

type record struct {
	hash       string
	narSize    int64
	references []string
	deriver    string
	registered int64
}

// DB is an open store database. It is safe for concurrent use.
type DB struct {
	storeDir string
	source   string
	backend  backend
}

// Open opens the database of a store for reading.
func Open(o Options) (*DB, error) {
	o = o.defaults()
	file, fileErr := openSQLite(filepath.Join(o.StateDir, "db", "db.sqlite"), o.StoreDir)
	if fileErr == nil {
		return &DB{o.StoreDir, "sqlite", file}, nil
	}
	socket, socketErr := openSocket(o.Socket)
	if socketErr == nil {
		return &DB{o.StoreDir, "daemon", socket}, nil
	}
	return nil, fmt.Errorf("store database of %s: neither readable nor is its daemon: %w",
		o.StoreDir, errors.Join(fileErr, socketErr))
}

// Source says where the answers come from: "sqlite" or "daemon".
func (db *DB) Source() string { return db.source }

// StoreDir returns the store's folder.
func (db *DB) StoreDir() string { return db.storeDir }

// Close frees what Open has taken.
func (db *DB) Close() error { return db.backend.close() }

// ByHash returns the valid item whose path has the given hash part.
func (db *DB) ByHash(ctx context.Context, hash string) (storepath.Path, error) {
	if !storepath.ValidHash(hash) {
		return storepath.Path{}, fmt.Errorf("hash part %q: %w", hash, ErrNotFound)
	}
	path, err := db.backend.byHash(ctx, hash)
	if err != nil {
		return storepath.Path{}, fmt.Errorf("hash part %s: %w", hash, err)
	}
	return db.parse(path)
}

// Info returns what the database says of a valid item.
func (db *DB) Info(ctx context.Context, p storepath.Path) (Info, error) {
	r, err := db.backend.info(ctx, p.String())
	if err != nil {
		return Info{}, fmt.Errorf("%s: %w", p, err)
	}
	return db.read(p, r)
}

// Lookup returns what the database says of the valid item whose path has the
// given hash part: Info of ByHash, for little more than one of them takes.
func (db *DB) Lookup(ctx context.Context, hash string) (Info, error) {
	if !storepath.ValidHash(hash) {
		return Info{}, fmt.Errorf("hash part %q: %w", hash, ErrNotFound)
	}
	path, r, err := db.backend.lookup(ctx, hash)
	if err != nil {
		return Info{}, fmt.Errorf("hash part %s: %w", hash, err)
	}
	p, err := db.parse(path)
	if err != nil {
		return Info{}, err
	}
	return db.read(p, r)
}

// read returns what a record says of an item.
func (db *DB) read(p storepath.Path, r record) (Info, error) {
	hash, err := parseHash(r.hash)
	if err != nil || r.narSize < 0 {
		return Info{}, fmt.Errorf("%s: the store database has hash %q and size %d", p, r.hash, r.narSize)
	}
	info := Info{
		Path: p, NarHash: hash, NarSize: uint64(r.narSize), Deriver: r.deriver,
		Registered: time.Unix(r.registered, 0),
	}
	for _, ref := range r.references {
		q, err := db.parse(ref)
		if err != nil {
			return Info{}, err
		}
		info.References = append(info.References, q)
	}
	return info, nil
}

func (db *DB) parse(path string) (storepath.Path, error) {
	p, err := storepath.Parse(path)
	if err == nil && p.Dir != db.storeDir {
		err = fmt.Errorf("the store database names %s, outside %s", path, db.storeDir)
	}
	return p, err
}

// parseHash reads the database's "sha256:HEX" or another spelling of Nix, and
// the daemon's bare HEX.
func parseHash(s string) ([32]byte, error) {
	if len(s) == 64 {
		s = "sha256:" + s
	}
	return narinfo.ParseHash(s)
}

// maxClosure bounds how many items Closure visits.
const maxClosure = 10_000_000

// Closure returns the items that roots refer to, directly or not, and the
// roots themselves; each after what it refers to, as far as items do not refer
// to each other.
func (db *DB) Closure(ctx context.Context, roots []storepath.Path) ([]storepath.Path, error) {
	type frame struct {
		path storepath.Path
		refs []storepath.Path
	}
	seen := map[storepath.Path]bool{}
	var out []storepath.Path
	var stack []frame
	push := func(p storepath.Path) error {
		if seen[p] {
			return nil
		}
		if len(seen) == maxClosure {
			return fmt.Errorf("closure of more than %d items", maxClosure)
		}
		seen[p] = true
		info, err := db.Info(ctx, p)
		if err != nil {
			return err
		}
		stack = append(stack, frame{p, info.References})
		return nil
	}
	for _, root := range roots {
		if err := push(root); err != nil {
			return nil, err
		}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if len(top.refs) == 0 {
				out = append(out, top.path)
				stack = stack[:len(stack)-1]
				continue
			}
			ref := top.refs[0]
			top.refs = top.refs[1:]
			if err := push(ref); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}
