package storedb_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/internal/storedb"
	"ersatz/internal/wire"
	"ersatz/storepath"
)

// answer writes what the daemon says to a question. With hang up, the
// connection ends after it.
type answer struct {
	bytes  []byte
	hangUp bool
}

// fakeDaemon speaks the daemon's side of the protocol on a socket.
type fakeDaemon struct {
	t       *testing.T
	socket  string
	greet   []byte // instead of the usual greeting
	answers func(op uint64, arg string) answer

	mu    sync.Mutex
	conns int
	asked []string
}

// greeting is what guix-daemon 1.5.0 sends first: magic and protocol 1.99.
var greeting = wire.AppendUint64(wire.AppendUint64(nil, 0x6478696f), 0x163)

// said ends the daemon's messages, answered with parts: numbers and texts.
func said(parts ...any) []byte {
	b := wire.AppendUint64(nil, 0x616c7473)
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = wire.AppendUint64(b, uint64(p))
		case string:
			b = wire.AppendString(b, p)
		}
	}
	return b
}

// failed is the daemon's error.
func failed(msg string) []byte {
	b := wire.AppendUint64(nil, 0x63787470)
	return wire.AppendUint64(wire.AppendString(b, msg), 1)
}

func startDaemon(t *testing.T, d *fakeDaemon) *fakeDaemon {
	t.Helper()
	d.t, d.socket = t, filepath.Join(t.TempDir(), "socket")
	if d.greet == nil {
		d.greet = greeting
	}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			d.conns++
			d.mu.Unlock()
			context.AfterFunc(ctx, func() { conn.Close() })
			work.Go(func() {
				defer conn.Close()
				d.serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		work.Wait()
	})
	return d
}

// serve answers one connection until an error.
func (d *fakeDaemon) serve(conn net.Conn) {
	r := wire.NewReader(bufio.NewReader(conn))
	if magic, err := r.Uint64(); err != nil || magic != 0x6e697863 {
		return
	}
	if _, err := conn.Write(d.greet); err != nil {
		return
	}
	for range 3 { // version, affinity, space
		if _, err := r.Uint64(); err != nil {
			return
		}
	}
	if _, err := conn.Write(said()); err != nil {
		return
	}
	for {
		op, err := r.Uint64()
		if err != nil {
			return
		}
		arg, err := r.String(1 << 20)
		if err != nil {
			return
		}
		d.mu.Lock()
		d.asked = append(d.asked, arg)
		d.mu.Unlock()
		a := d.answers(op, arg)
		if _, err := conn.Write(a.bytes); err != nil || a.hangUp {
			return
		}
	}
}

func (d *fakeDaemon) count() (conns, asked int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conns, len(d.asked)
}

// open opens the database through the socket: there is no file.
func (d *fakeDaemon) open() (*storedb.DB, error) {
	return storedb.Open(storedb.Options{StateDir: filepath.Dir(d.socket), Socket: d.socket})
}

func (d *fakeDaemon) mustOpen() *storedb.DB {
	d.t.Helper()
	db, err := d.open()
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { db.Close() })
	if db.Source() != "daemon" {
		d.t.Fatalf("source %s", db.Source())
	}
	return db
}

const (
	opInfo   = 26
	opByHash = 29
	depBase  = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1-dep"
	itemBase = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-item"
)

var goodHash = strings.Repeat("0f", 32)

func goodInfo() []byte {
	return said("/gnu/store/ccccccccccccccccccccccccccccccc3-item.drv", goodHash, 2, "/gnu/store/"+itemBase, "/gnu/store/"+depBase, 1234, 99)
}

func TestDaemon(t *testing.T) {
	item, dep := path(t, itemBase), path(t, depBase)
	d := startDaemon(t, &fakeDaemon{answers: func(op uint64, arg string) answer {
		switch {
		case op == opByHash && arg == item.Hash:
			return answer{bytes: said("/gnu/store/" + itemBase)}
		case op == opByHash:
			return answer{bytes: said("")}
		case op == opInfo && arg == item.String():
			// Messages may come first.
			return answer{bytes: append(wire.AppendString(wire.AppendUint64(nil, 0x6f6c6d67), "working\n"), goodInfo()...)}
		}
		return answer{bytes: failed("path `" + arg + "' is not valid")}
	}})
	db := d.mustOpen()
	if got, err := db.ByHash(t.Context(), item.Hash); err != nil || got != item {
		t.Errorf("by hash: %v, %v", got, err)
	}
	if got, err := db.ByHash(t.Context(), dep.Hash); !errors.Is(err, storedb.ErrNotFound) {
		t.Errorf("by another hash: %v, %v", got, err)
	}
	if got, err := db.Lookup(t.Context(), dep.Hash); !errors.Is(err, storedb.ErrNotFound) {
		t.Errorf("by another hash: %v, %v", got, err)
	}
	narHash, err := hex.DecodeString(goodHash)
	if err != nil {
		t.Fatal(err)
	}
	want := storedb.Info{
		Path: item, NarHash: [32]byte(narHash), NarSize: 99, References: []storepath.Path{dep, item},
		Deriver: "/gnu/store/ccccccccccccccccccccccccccccccc3-item.drv", Registered: time.Unix(1234, 0),
	}
	if got, err := db.Info(t.Context(), item); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("info %+v, %v", got, err)
	}
	if _, err := db.Info(t.Context(), dep); !errors.Is(err, storedb.ErrNotFound) {
		t.Errorf("an item that is not valid: %v", err)
	}
	if got, err := db.Info(t.Context(), item); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("after a refusal: %+v, %v", got, err)
	}
	if conns, asked := d.count(); conns != 1 || asked != 6 {
		t.Errorf("%d connections for %d questions", conns, asked)
	}
}

// TestHostileDaemon: an answer that makes no sense is an error, costs no
// memory, and does not spoil the next question.
func TestHostileDaemon(t *testing.T) {
	const long = 1 << 40
	item := path(t, itemBase)
	for name, bad := range map[string]answer{
		"nothing":                    {nil, true},
		"half a number":              {[]byte("abc"), true},
		"unknown tag":                {wire.AppendUint64(nil, 0x12345678), false},
		"endless message":            {wire.AppendUint64(wire.AppendUint64(nil, 0x6f6c6d67), long), false},
		"endless error":              {wire.AppendUint64(wire.AppendUint64(nil, 0x63787470), long), false},
		"cut error":                  {failed("x")[:20], true},
		"cut info":                   {goodInfo()[:100], true},
		"no info":                    {said(), true},
		"endless path":               {said(long), false},
		"non-zero padding":           {append(said(), "\x01\x00\x00\x00\x00\x00\x00\x00axxxxxxx"...), false},
		"many references":            {said("", goodHash, 1<<40), false},
		"short hash":                 {said("", goodHash[2:], 0, 1, 1), false},
		"hash in nixbase32":          {said("", strings.Repeat("0", 52), 0, 1, 1), false},
		"hash of another sort":       {said("", "sha1:"+goodHash, 0, 1, 1), false},
		"negative size":              {said("", goodHash, 0, 1, -1), false},
		"reference elsewhere":        {said("", goodHash, 1, "/etc/passwd", 1, 1), false},
		"reference in another store": {said("", goodHash, 1, "/nix/store/"+depBase, 1, 1), false},
		"refusal":                    {failed("out of memory"), false},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			d := startDaemon(t, &fakeDaemon{answers: func(uint64, string) answer {
				if n++; n == 1 {
					return bad
				}
				return answer{bytes: goodInfo()}
			}})
			db := d.mustOpen()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			info, err := db.Info(ctx, item)
			conns, _ := d.count()
			// A connection that dies is tried once more, with a good answer.
			if err == nil && conns == 1 {
				t.Errorf("accepted: %+v", info)
			}
			if errors.Is(err, storedb.ErrNotFound) {
				t.Errorf("taken for an answer: %v", err)
			}
			if info, err = db.Info(ctx, item); err != nil || info.NarSize != 99 {
				t.Errorf("the next question: %+v, %v", info, err)
			}
		})
	}
}

func TestHostileGreeting(t *testing.T) {
	for name, greet := range map[string][]byte{
		"another magic":   wire.AppendUint64(wire.AppendUint64(nil, 1), 0x163),
		"another version": wire.AppendUint64(wire.AppendUint64(nil, 0x6478696f), 0x263),
		"too old a Nix":   wire.AppendUint64(wire.AppendUint64(nil, 0x6478696f), 0x111),
		"HTTP":            []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
	} {
		d := startDaemon(t, &fakeDaemon{greet: greet, answers: func(uint64, string) answer { return answer{} }})
		if _, err := d.open(); err == nil || !strings.Contains(err.Error(), "neither guix-daemon nor nix-daemon") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDaemonRestarts: a daemon that was restarted between two questions is
// asked again, and one that is gone is not asked for ever.
func TestDaemonRestarts(t *testing.T) {
	item := path(t, itemBase)
	d := startDaemon(t, &fakeDaemon{answers: func(uint64, string) answer { return answer{goodInfo(), true} }})
	db := d.mustOpen()
	for range 3 {
		if _, err := db.Info(t.Context(), item); err != nil {
			t.Fatal(err)
		}
	}
	if conns, asked := d.count(); conns != 3 || asked < 3 {
		t.Errorf("%d connections, %d questions", conns, asked)
	}
	gone := startDaemon(t, &fakeDaemon{answers: func(uint64, string) answer { return answer{nil, true} }})
	db = gone.mustOpen()
	if _, err := db.Info(t.Context(), item); !errors.Is(err, io.EOF) {
		t.Errorf("a daemon that hangs up: %v", err)
	}
	if conns, _ := gone.count(); conns != 2 {
		t.Errorf("%d connections", conns)
	}
}

// TestDaemonStalls: the end of a context ends the wait for an answer.
func TestDaemonStalls(t *testing.T) {
	item := path(t, itemBase)
	asked, stalled := make(chan bool, 1), make(chan bool)
	d := startDaemon(t, &fakeDaemon{answers: func(uint64, string) answer {
		asked <- true
		<-stalled
		return answer{nil, true}
	}})
	t.Cleanup(func() { close(stalled) }) // before the daemon is waited for
	db := d.mustOpen()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := db.Info(ctx, item); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := db.Info(ctx, item); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// TestDaemonConcurrently: questions wait for each other and get their own
// answers.
func TestDaemonConcurrently(t *testing.T) {
	d := startDaemon(t, &fakeDaemon{answers: func(_ uint64, hash string) answer {
		return answer{bytes: said("/gnu/store/" + hash + "-item")}
	}})
	db := d.mustOpen()
	var work sync.WaitGroup
	for i := range 8 {
		hash := strings.Repeat(string("0123456789"[i]), 32)
		work.Go(func() {
			for range 20 {
				if p, err := db.ByHash(t.Context(), hash); err != nil || p.Hash != hash {
					t.Errorf("%s: %v, %v", hash, p, err)
				}
			}
		})
	}
	work.Wait()
}
