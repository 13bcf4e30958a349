package upstream

import (
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"ersatz/internal/fetch"
	"ersatz/internal/transport/n2r"
)

// Server is a substitute server, or a folder that looks like one.
type Server struct {
	base *url.URL // as given, without a slash at its end

	once   sync.Once
	blocks *n2r.Client // what it has learnt of the server lasts as long as this
}

// String returns the server's URL, without a slash at its end.
func (s *Server) String() string { return s.base.String() }

// IsFolder reports whether the server is a folder of this machine.
func (s *Server) IsFolder() bool { return s.base.Scheme == "file" }

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

// Resolve makes a URL of ref, as Guix does (guix/narinfo.scm, narinfo-maker). A
// server cannot lead to files, nor a folder out of itself.
func (s *Server) Resolve(ref string) (*url.URL, error) {
	r, err := url.Parse(ref)
	if err != nil {
		return nil, err
	}
	if r.Scheme == "http" || r.Scheme == "https" {
		return r, nil
	}
	local := strings.TrimLeft(r.Path, "/")
	if r.Scheme != "" || r.Host != "" || s.IsFolder() && !filepath.IsLocal(local) {
		return nil, fmt.Errorf("URL %.300q is not followed", ref)
	}
	return url.Parse(s.String() + "/" + strings.TrimLeft(ref, "/"))
}

// Blocks returns the server as a source of blocks, named by its URL, and
// whether it can be one: a folder cannot.
func (c *Client) Blocks(sv *Server) (fetch.Source, bool) {
	sv.once.Do(func() {
		if !sv.IsFolder() {
			sv.blocks, _ = n2r.New(sv.String(), c.http) // ParseServer allows no URL that it refuses
		}
	})
	if sv.blocks == nil {
		return fetch.Source{}, false
	}
	return fetch.Source{Name: sv.String(), Fetcher: sv.blocks}, true
}
