package upstream

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"ersatz/internal/fetch"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/n2r"
)

// Server is a substitute server, or a folder that looks like one.
type Server struct {
	base *url.URL // as given, without a slash at its end
	peer bool     // see ParsePeer
	near atomic.Bool

	rest   atomic.Int64 // until when it rests, in Unix time, unless that is in the cache
	probed atomic.Bool  // it is being probed
	silent atomic.Bool  // it did not answer when it was last asked

	once   sync.Once
	blocks *n2r.Client // what it has learnt of the server lasts as long as this
}

// String returns what the server is called, in logs and where others read it: URL
// without a password.
func (s *Server) String() string { return s.base.Redacted() }

// URL returns the server's URL, without a slash at its end.
func (s *Server) URL() string { return s.base.String() }

// IsFolder reports whether the server is a folder of this machine.
func (s *Server) IsFolder() bool { return s.base.Scheme == "file" }

// IsPeer reports whether ParsePeer has read the server's URL.
func (s *Server) IsPeer() bool { return s.peer }

// Near reports whether the server is known to be on the local network.
func (s *Server) Near() bool { return s.near.Load() }

// SetNear says whether it is.
func (s *Server) SetNear(near bool) { s.near.Store(near) }

// level is that of what is logged of a server's failures: those of peers are no
// operator's to mend, and anybody can be one.
func (s *Server) level() slog.Level {
	if s.peer {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// ParseServer reads the URL of a server: http, https, or file with an absolute
// path; no query, no fragment.
func ParseServer(s string) (*Server, error) {
	u, err := url.Parse(strings.TrimRight(s, "/"))
	if err != nil {
		return nil, err
	}
	switch {
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q has a query or a fragment", s)
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
	case u.Scheme == "file" && u.Host == "" && path.IsAbs(u.Path):
	default:
		return nil, fmt.Errorf("%q is no http, https or file URL", s)
	}
	return &Server{base: u}, nil
}

// OnlyKept is the header, "1", of requests to peers, and of all that a node asks
// for. A node that gets it answers from what it keeps: two that ask each other,
// or one that asks itself, would go on for ever.
const OnlyKept = "Ersatz-Only-Kept"

// ParsePeer reads the http or https URL of a node, or of a server that nobody has
// chosen. It is asked as others are, but leads to no other host, neither by a
// redirect nor by the URL of a nar, and is told not to ask others in turn.
func ParsePeer(s string) (*Server, error) {
	sv, err := ParseServer(s)
	if err != nil {
		return nil, err
	}
	if sv.IsFolder() {
		return nil, fmt.Errorf("%q is no http or https URL", s)
	}
	sv.peer = true
	return sv, nil
}

// Resolve makes a URL of ref, as Guix does (guix/narinfo.scm, narinfo-maker). A
// server cannot lead to files, nor a folder or a peer out of itself.
func (s *Server) Resolve(ref string) (*url.URL, error) {
	r, err := url.Parse(ref)
	if err != nil {
		return nil, err
	}
	if r.Scheme == "http" || r.Scheme == "https" {
		if (s.peer || s.IsFolder()) && (r.Scheme != s.base.Scheme || r.Host != s.base.Host) {
			return nil, fmt.Errorf("URL %.300q of another server is not followed", ref)
		}
		return r, nil
	}
	local := strings.TrimLeft(r.Path, "/")
	if r.Scheme != "" || r.Host != "" || s.IsFolder() && !filepath.IsLocal(local) {
		return nil, fmt.Errorf("URL %.300q is not followed", ref)
	}
	return url.Parse(s.URL() + "/" + strings.TrimLeft(ref, "/"))
}

// httpOf returns who asks a server.
func (c *Client) httpOf(sv *Server) *http.Client {
	if sv.peer {
		return httpclient.Stay(c.http)
	}
	return c.http
}

// Blocks returns the server as a source of blocks, named by String, and
// whether it can be one: a folder cannot.
func (c *Client) Blocks(sv *Server) (fetch.Source, bool) {
	sv.once.Do(func() {
		if !sv.IsFolder() {
			sv.blocks, _ = n2r.New(sv.URL(), c.httpOf(sv)) // ParseServer allows no URL that it refuses
		}
	})
	if sv.blocks == nil {
		return fetch.Source{}, false
	}
	return fetch.Source{Name: sv.String(), Fetcher: sv.blocks, Near: sv.Near()}, true
}
