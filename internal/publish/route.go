package publish

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"ersatz/eris"
	"ersatz/internal/bake"
	"ersatz/internal/transport/n2r"
	"ersatz/storepath"
)

const (
	// maxPath bounds the path of a request in bytes: more than any URL that a
	// narinfo of ours has.
	maxPath = 4096

	// bodyTime bounds how long a client may take to send a request's body.
	bodyTime = 30 * time.Second
)

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if ctx := r.Context(); s.opt.Log.Enabled(ctx, slog.LevelDebug) {
		s.opt.Log.DebugContext(ctx, "request", slog.String("method", clip(r.Method)),
			slog.String("path", clip(r.URL.EscapedPath())), slog.String("client", r.RemoteAddr))
	}
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
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		plain(w, r, http.StatusMethodNotAllowed, "Method not allowed: "+clip(r.Method))
		return
	}
	parts, status := split(r.URL)
	if status != http.StatusOK {
		plain(w, r, status, http.StatusText(status))
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
			if slices.Contains([]string{"gzip", "lzip", "zstd"}, rest[0]) {
				s.nar(w, r, rest[0], rest[1])
				return
			}
		}
	}
	s.notFound(w, r, 0)
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

// split returns the decoded components of a path. As in Guile's
// split-and-decode-uri-path, empty ones do not count. The status is not 200
// for a path that names nothing anywhere: with encoded slashes or NULs, "." or
// "..", or more than maxPath bytes.
func split(u *url.URL) (parts []string, status int) {
	path := u.EscapedPath()
	if len(path) > maxPath {
		return nil, http.StatusRequestURITooLong
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" {
			continue
		}
		part, err := url.PathUnescape(part)
		if err != nil || part == "." || part == ".." || strings.ContainsAny(part, "/\x00") {
			return nil, http.StatusBadRequest
		}
		parts = append(parts, part)
	}
	return parts, http.StatusOK
}

func cutPrefix(parts, prefix []string) (rest []string, ok bool) {
	if len(parts) < len(prefix) || !slices.Equal(parts[:len(prefix)], prefix) {
		return nil, false
	}
	return parts[len(prefix):], true
}

// notFound says that there is nothing, and for how long that may be believed.
func (s *Server) notFound(w http.ResponseWriter, r *http.Request, ttl time.Duration) {
	maxAge(w, ttl)
	plain(w, r, http.StatusNotFound, "Resource not found: "+r.URL.EscapedPath())
}

// unavailable says that the fault is on this side; the client may ask again.
func (s *Server) unavailable(w http.ResponseWriter, r *http.Request, doing string, err error) {
	if r.Context().Err() == nil { // else nobody is there any more
		s.opt.Log.ErrorContext(r.Context(), doing, slog.Any("error", err))
	}
	w.Header().Set("Retry-After", "30")
	plain(w, r, http.StatusServiceUnavailable, "Try again later")
}

// plain answers with a line of text, without a newline, as Guix does.
func plain(w http.ResponseWriter, r *http.Request, status int, text string) {
	send(w, r, status, "text/plain;charset=utf-8", []byte(text))
}

// send answers with a body that is at hand.
func send(w http.ResponseWriter, r *http.Request, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write(body) // an error is the client's going away
	}
}

// clip bounds what a log line or an answer repeats of a request.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
