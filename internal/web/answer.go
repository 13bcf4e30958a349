package web

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// MaxPath bounds the path of a request in bytes: more than any URL that a
// narinfo names.
const MaxPath = 4096

// Read returns the decoded components of what a GET or HEAD asks for. Other
// requests, and paths that name nothing anywhere, are answered; then ok is
// false.
func Read(w http.ResponseWriter, r *http.Request) (parts []string, ok bool) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		Plain(w, r, http.StatusMethodNotAllowed, "Method not allowed: "+Clip(r.Method))
		return nil, false
	}
	parts, status := split(r.URL)
	if status != http.StatusOK {
		Plain(w, r, status, http.StatusText(status))
		return nil, false
	}
	return parts, true
}

// split returns the decoded components of a path. As in Guile's
// split-and-decode-uri-path, empty ones do not count. The status is not 200
// for a path with encoded slashes or NULs, "." or "..", or more than MaxPath
// bytes.
func split(u *url.URL) (parts []string, status int) {
	path := u.EscapedPath()
	if len(path) > MaxPath {
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

// MaxAge says for how long the answer may be kept; 0 says nothing.
func MaxAge(h http.Header, d time.Duration) {
	if d > 0 {
		h.Set("Cache-Control", "max-age="+strconv.FormatInt(int64(d/time.Second), 10))
	}
}

// NotFound says, in the words of `guix publish`, that there is nothing, and for
// how long that may be believed.
func NotFound(w http.ResponseWriter, r *http.Request, ttl time.Duration) {
	MaxAge(w.Header(), ttl)
	Plain(w, r, http.StatusNotFound, "Resource not found: "+r.URL.EscapedPath())
}

// Plain answers with a line of text, without a newline, as Guix does.
func Plain(w http.ResponseWriter, r *http.Request, status int, text string) {
	Send(w, r, status, "text/plain;charset=utf-8", []byte(text))
}

// Send answers with a body that is at hand.
func Send(w http.ResponseWriter, r *http.Request, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write(body) // an error is the client's going away
	}
}

// Clip bounds what a log line or an answer repeats of a request.
func Clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
