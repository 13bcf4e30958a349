package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"ersatz/internal/storedb"
	"ersatz/nar"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// patience bounds what a script waits for.
const patience = time.Minute

// mkstore adds an item to the store below $WORK/store, with its database below
// $WORK/guix: mkstore BASE FILE…. The item is a folder of the files.
func mkstore(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mkstore BASE FILE...")
	}
	p, err := storepath.ParseBase(ts.MkAbs("store"), args[0])
	ts.Check(err)
	ts.Check(os.MkdirAll(p.String(), 0o755))
	for _, name := range args[1:] {
		ts.Check(os.WriteFile(filepath.Join(p.String(), filepath.Base(name)), []byte(ts.ReadFile(name)), 0o644))
	}
	got, err := nar.Dump(io.Discard, p.String())
	ts.Check(err)
	db, err := storedb.Create(ts.MkAbs("guix"))
	ts.Check(err)
	err = db.Register(context.Background(), storedb.Info{Path: p, NarHash: got.Hash, NarSize: uint64(got.Size), Registered: time.Unix(1, 0)})
	ts.Check(errors.Join(err, db.Close()))
}

// freeport sets $PORT to a free one of loopback, and $URL to its address.
func freeport(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: freeport")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	ts.Check(l.Close())
	ts.Setenv("PORT", port)
	ts.Setenv("URL", "http://127.0.0.1:"+port)
}

// get wants a status of a URL and copies head and body to stdout: get STATUS
// URL [TEXT]. It waits for a server that does not listen yet and, if there is
// a TEXT, for a body that has it.
func get(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: get STATUS URL [TEXT]")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		status, text, err := httpGet(ctx, args[1])
		again := errors.Is(err, syscall.ECONNREFUSED) || err == nil && len(args) == 3 && !strings.Contains(text, args[2])
		if again && ctx.Err() == nil {
			continue
		}
		ts.Check(err)
		fmt.Fprint(ts.Stdout(), text)
		if strconv.Itoa(status) != args[0] {
			ts.Fatalf("status %d, want %s", status, args[0])
		}
		return
	}
}

// httpGet returns the head and the body of an answer as text.
func httpGet(ctx context.Context, url string) (status int, text string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	var b strings.Builder
	if err := res.Header.Write(&b); err != nil {
		return 0, "", err
	}
	b.WriteString("\n")
	_, err = io.Copy(&b, res.Body)
	return res.StatusCode, strings.ReplaceAll(b.String(), "\r\n", "\n"), err
}

// forget removes an item from the store and its database, as the garbage
// collector does: forget BASE.
func forget(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: forget BASE")
	}
	path := ts.MkAbs("store/" + args[0])
	db, err := storedb.Create(ts.MkAbs("guix"))
	ts.Check(err)
	ts.Check(errors.Join(db.Forget(context.Background(), path), db.Close(), os.RemoveAll(path)))
}

// urn sets $URN to what a narinfo's ERIS line says: urn FILE.
func urn(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: urn FILE")
	}
	n, err := narinfo.Parse([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	ts.Setenv("URN", n.ERIS)
}
