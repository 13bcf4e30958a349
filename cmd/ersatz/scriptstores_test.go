package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"ersatz/eris"
	"ersatz/internal/block/memstore"
	"ersatz/internal/transport/coap"
)

// putstore runs two empty stores until the script ends: one of HTTP, at $STORE,
// and one of CoAP over TCP below a secret path, at $COAP without its query.
func putstore(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: putstore")
	}
	hl, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	cl, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	store := memstore.New()
	coaps, err := coap.NewServer([]coap.Resource{{Path: "/s3cret", Blocks: store, Sink: store}}, coap.ServerOptions{})
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	server := http.Server{Handler: erisNim{memstore.New()}, ReadHeaderTimeout: time.Minute}
	work.Go(func() { server.Serve(hl) })
	work.Go(func() { coaps.ServeTCP(ctx, cl) })
	ts.Defer(func() {
		cancel()
		server.Close()
		work.Wait()
	})
	ts.Setenv("STORE", "http://"+hl.Addr().String())
	ts.Setenv("COAP", "coap+tcp://"+cl.Addr().String()+"/s3cret")
}

// erisNim answers as the HTTP server of eris-nim does: single blocks, got and put.
type erisNim struct{ store *memstore.Store }

func (s erisNim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, ok := strings.CutPrefix(r.URL.RawQuery, "urn:blake2b:")
	ref, err := eris.ParseRef(text)
	if !ok || err != nil || r.URL.Path != "/uri-res/N2R" {
		http.Error(w, "no such thing", http.StatusNotFound)
		return
	}
	switch r.Method {
	case http.MethodGet:
		b, err := s.store.Get(r.Context(), ref)
		if err != nil {
			http.Error(w, "no such block", http.StatusNotFound)
			return
		}
		w.Write(b)
	case http.MethodPut:
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<16))
		if err != nil || eris.BlockRef(b) != ref || s.store.Put(r.Context(), ref, b) != nil {
			http.Error(w, "not the block", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Location", r.URL.String())
	default:
		http.Error(w, "get or put", http.StatusMethodNotAllowed)
	}
}

// waitfor waits until a file has a text: waitfor FILE TEXT.
func waitfor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitfor FILE TEXT")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && strings.Contains(string(text), args[1]) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			ts.Fatalf("%s does not have %q: %s", args[0], args[1], text)
		}
	}
}
