package publish

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"ersatz/eris"
	"ersatz/internal/bake"
	"ersatz/internal/metrics"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/web"
	"ersatz/storepath"
)

// bodyTime bounds how long a client may take to send a request's body.
const bodyTime = 30 * time.Second

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if ctx := r.Context(); s.opt.Log.Enabled(ctx, slog.LevelDebug) {
		s.opt.Log.DebugContext(ctx, "request", slog.String("method", web.Clip(r.Method)),
			slog.String("path", web.Clip(r.URL.EscapedPath())), slog.String("client", r.RemoteAddr))
	}
	s.opt.Requests.Serve(w, r, metrics.Web, s.kind(r.URL.Path), s.answer)
}

// kind returns what counts a request.
func (s *Server) kind(path string) metrics.Kind {
	switch {
	case path == n2r.BlockPath:
		return metrics.Block
	case path == n2r.BatchPath:
		return metrics.Batch
	case strings.HasSuffix(path, ".narinfo"):
		return metrics.Narinfo
	case strings.HasPrefix(path, "/"+s.opt.NarPath+"/"):
		return metrics.NarFile
	}
	return metrics.Other
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	w = newPaced(w)
	if r.ContentLength != 0 {
		// The connection's next request sets this anew. A connection that
		// knows no deadlines is one of a test.
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	}
	if s.blocks != nil && (r.URL.Path == n2r.BlockPath || r.URL.Path == n2r.BatchPath) {
		if r.Method == http.MethodPost {
			s.readBody(w, r)
		}
		s.blocks.ServeHTTP(w, r)
		return
	}
	parts, ok := web.Read(w, r)
	if !ok {
		return
	}
	s.route(w, r, parts)
}

// route answers GET and HEAD of a path, in the order of Guix.
func (s *Server) route(w http.ResponseWriter, r *http.Request, parts []string) {
	switch len(parts) {
	case 0:
		s.home(w, r)
		return
	case 1:
		hash, isNarinfo := strings.CutSuffix(parts[0], ".narinfo")
		switch {
		case parts[0] == "healthz":
			web.Plain(w, r, http.StatusOK, "ok\n")
			return
		case parts[0] == "nix-cache-info":
			s.cacheInfo(w, r)
			return
		case parts[0] == "index.html":
			s.home(w, r)
			return
		case parts[0] == bake.KeyFile:
			s.signingKey(w, r)
			return
		case parts[0] == bake.NixKeyFile:
			s.nixKey(w, r)
			return
		case isNarinfo && storepath.ValidHash(hash):
			s.narinfo(w, r, hash)
			return
		}
	case 2:
		if parts[0] == "log" {
			s.log(w, r, parts[1])
			return
		}
	case 3:
		if parts[0] == "eris" && parts[1] == "torrent" {
			s.torrent(w, r, parts[2])
			return
		}
	case 4:
		if parts[0] == "file" && parts[2] == "sha256" {
			s.file(w, r, parts[1], parts[3])
			return
		}
	}
	if rest, ok := cutPrefix(parts, s.narDir); ok {
		switch len(rest) {
		case 1:
			s.nar(w, r, "none", rest[0])
			return
		case 2:
			if slices.Contains(compressed, rest[0]) {
				s.nar(w, r, rest[0], rest[1])
				return
			}
		}
	}
	web.NotFound(w, r, 0)
}

// readBody reads the body of a batch before its answer begins, so that the
// time for the body does not bound that of the answer. A body that is too long
// or does not end is left to the handler, which refuses it.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) {
	const limit = n2r.MaxBatch*int64(len(eris.Ref{})) + 1
	b, err := io.ReadAll(io.LimitReader(r.Body, limit))
	body := io.Reader(bytes.NewReader(b))
	switch {
	case err != nil:
		body = io.MultiReader(body, broken{err})
	case int64(len(b)) < limit:
		http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	r.Body = io.NopCloser(body)
}

// broken is the end of a body that could not be read.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

func cutPrefix(parts, prefix []string) (rest []string, ok bool) {
	if len(parts) < len(prefix) || !slices.Equal(parts[:len(prefix)], prefix) {
		return nil, false
	}
	return parts[len(prefix):], true
}

// unavailable says that the fault is on this side; the client may ask again.
func (s *Server) unavailable(w http.ResponseWriter, r *http.Request, doing string, err error) {
	if r.Context().Err() == nil { // else nobody is there any more
		s.opt.Log.ErrorContext(r.Context(), doing, slog.Any("error", err))
	}
	w.Header().Set("Retry-After", "30")
	web.Plain(w, r, http.StatusServiceUnavailable, "Try again later")
}
