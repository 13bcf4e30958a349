package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/bake"
	"ersatz/internal/compress"
	"ersatz/internal/publish"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/web"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// bakeTime bounds the baking of one item.
const bakeTime = 5 * time.Minute

// server is `ersatz publish`, with faults to switch on.
type server struct {
	*cable
	cancel context.CancelFunc
	work   sync.WaitGroup
	ended  error

	lies     atomic.Bool // one bit of each block is changed
	noBlocks atomic.Bool // blocks are not found
	forges   atomic.Bool // one character of the URN is changed
}

func startServer(ctx context.Context, host, dir string, st *store, key *guixsig.PrivateKey, level int) (*server, error) {
	methods := []compress.Method{{Name: "zstd", Level: level}}
	signer := bake.Signer{Guix: key, Host: host}
	cache, err := bake.Open(dir, st.db, signer, bake.Options{Methods: methods})
	if err != nil {
		return nil, err
	}
	h, err := publish.New(st.db, signer, publish.Options{
		Methods: methods, Cache: &publish.Baked{Dir: cache.Dir(), Baker: cache, Blocks: cache.Blocks()},
	})
	if err != nil {
		return nil, errors.Join(err, cache.Close())
	}
	l, err := plug()
	if err != nil {
		return nil, errors.Join(err, h.Close(), cache.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &server{cable: l, cancel: cancel}
	s.work.Go(func() {
		var baked error
		var baking sync.WaitGroup
		baking.Go(func() { baked = cache.Run(ctx) })
		served := web.Serve(ctx, []net.Listener{l}, s.faulty(h), slog.New(slog.DiscardHandler))
		cancel()
		baking.Wait()
		s.ended = errors.Join(served, baked, h.Close(), cache.Close())
	})
	return s, nil
}

// stop ends the server and waits for it. Ending it again does no harm.
func (s *server) stop() error {
	s.cancel()
	s.cut(0)
	s.work.Wait()
	return s.ended
}

// narinfo asks for a baked narinfo until it is there.
func (s *server) narinfo(p storepath.Path) (*narinfo.Narinfo, error) {
	client := &http.Client{Timeout: bakeTime}
	for end := time.Now().Add(bakeTime); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		resp, err := client.Get(s.url() + "/" + p.Hash + ".narinfo")
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, narinfo.MaxSize))
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusOK {
			continue
		}
		if n, err := narinfo.Parse(text); err != nil || n.ERIS != "" {
			return n, err
		}
	}
	return nil, fmt.Errorf("%s: not baked after %v", p, bakeTime)
}

// faulty wraps a server with the faults.
func (s *server) faulty(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		blocks := r.URL.Path == n2r.BatchPath || r.URL.Path == n2r.BlockPath
		switch {
		case blocks && s.noBlocks.Load():
			http.NotFound(w, r)
		case blocks && s.lies.Load():
			s.change(w, r, h, func(body []byte) {
				if len(body) > 0 {
					body[len(body)/2] ^= 1
				}
			})
		case strings.HasSuffix(r.URL.Path, ".narinfo") && s.forges.Load():
			s.change(w, r, h, func(body []byte) {
				if i := strings.Index(string(body), "urn:eris:"); i >= 0 {
					body[i+20] = body[i+20]&^7 | (body[i+20]+1)&7
				}
			})
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// change has h answer and changes the body.
func (s *server) change(w http.ResponseWriter, r *http.Request, h http.Handler, fn func(body []byte)) {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	body := rec.Body.Bytes()
	fn(body)
	for name, values := range rec.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(rec.Code)
	w.Write(body) // an error is the client's going away
}
