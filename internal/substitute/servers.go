package substitute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ersatz/internal/fetch"
	"ersatz/internal/transport/n2r"
	"ersatz/narinfo"
)

// parallel is how many narinfos one server is asked for at once.
const parallel = 16

// slowTTL is how long a server for which a request waited in vain is left
// alone. One that fails at once is asked again by the next request.
const slowTTL = 30 * time.Second

// server is a substitute server, or a folder that looks like one.
type server struct {
	base   *url.URL // as given, without a slash at its end
	blocks *fetch.Source
}

// String returns the server's URL.
func (s *server) String() string { return s.base.String() }

// parseServer reads the URL of a server.
func parseServer(s string) (*server, error) {
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
	return &server{base: u}, nil
}

// openServers returns those of the local network, which are nearest, and those
// of the daemon's options.
func (s *Substituter) openServers() []*server {
	var urls []string
	if s.daemon.Discover {
		found, err := readDiscovered(s.o.Discovered)
		if err != nil {
			s.log.Warn("discovered servers", slog.String("file", s.o.Discovered), slog.Any("error", err))
		}
		urls = found
	}
	for _, u := range s.daemon.Servers {
		if !slices.Contains(urls, u) {
			urls = append(urls, u)
		}
	}
	var servers []*server
	for _, u := range urls {
		sv, err := parseServer(u)
		if err != nil {
			s.tell("ignoring substitute server: %v\n", err)
			continue
		}
		if sv.base.Scheme != "file" {
			if c, err := n2r.New(sv.String(), s.client); err == nil {
				sv.blocks = &fetch.Source{Name: sv.String(), Fetcher: c}
			}
		}
		servers = append(servers, sv)
	}
	return servers
}

// maxDiscovered bounds the file of discovered servers, in bytes.
const maxDiscovered = 1 << 20

// readDiscovered reads the file that "guix discover" writes, in an order of
// chance, so that all servers share the load. A missing file names none.
func readDiscovered(name string) ([]string, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxDiscovered))
	if err != nil {
		return nil, err
	}
	urls := parseDiscovered(string(text))
	rand.Shuffle(len(urls), func(i, j int) { urls[i], urls[j] = urls[j], urls[i] })
	return urls[:min(len(urls), maxFound)], nil
}

// parseDiscovered returns the URLs of the lines "http://ADDRESS:PORT" (Guix
// 1.5.0, guix/scripts/discover.scm, write-publish-file). Whoever is in the
// local network can put lines there: those of another form are passed over,
// and a name that would lead to a file is none.
func parseDiscovered(text string) []string {
	var urls []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		sv, err := parseServer(line)
		if err != nil || sv.base.Scheme != "http" || sv.String() != line || slices.Contains(urls, line) {
			continue
		}
		urls = append(urls, line)
	}
	return urls
}

// errStatus is an answer of HTTP that is neither the file nor "not there".
type errStatus struct{ status string }

func (e *errStatus) Error() string { return e.status }

// open opens what ref, relative to the server or absolute, names, and returns
// its size, -1 if it is not known. The error matches fs.ErrNotExist if it is
// not there. header is nil for a file.
func (s *Substituter) open(ctx context.Context, sv *server, ref string) (body io.ReadCloser, size int64, resp *http.Response, err error) {
	u, err := sv.resolve(ref)
	if err != nil {
		return nil, 0, nil, err
	}
	if u.Scheme == "file" {
		body, size, err = openFile(u.Path)
		return body, size, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, 0, nil, err
	}
	resp, err = s.client.Do(req)
	if err != nil {
		return nil, 0, nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp.Body, resp.ContentLength, resp, nil
	case http.StatusNotFound, http.StatusGone, http.StatusAccepted:
		err = fmt.Errorf("%s: %w", resp.Status, fs.ErrNotExist)
	default:
		err = &errStatus{resp.Status}
	}
	drain(resp.Body)
	return nil, 0, resp, err
}

// resolve makes a URL of ref, as Guix does (guix/narinfo.scm, narinfo-maker). A
// server cannot lead to files, nor a folder out of itself.
func (sv *server) resolve(ref string) (*url.URL, error) {
	r, err := url.Parse(ref)
	if err != nil {
		return nil, err
	}
	if r.Scheme == "http" || r.Scheme == "https" {
		return r, nil
	}
	local := strings.TrimLeft(r.Path, "/")
	if r.Scheme != "" || r.Host != "" || sv.base.Scheme == "file" && !filepath.IsLocal(local) {
		return nil, fmt.Errorf("URL %.300q is not followed", ref)
	}
	return url.Parse(sv.String() + "/" + strings.TrimLeft(ref, "/"))
}

// openFile opens a regular file: a FIFO would wait for ever.
func openFile(name string) (io.ReadCloser, int64, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, 0, err
	}
	if !fi.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is no regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// readAll reads a body of at most narinfo.MaxSize bytes.
func readAll(body io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(body, narinfo.MaxSize+1))
	if err == nil && len(text) > narinfo.MaxSize {
		err = fmt.Errorf("narinfo of more than %d bytes", narinfo.MaxSize)
	}
	return text, err
}

// drainTime is how long a connection is worth waiting for.
const drainTime = time.Second

// drain reads what little may be left, so that the connection can be kept, if
// that does not take long.
func drain(body io.ReadCloser) {
	late := time.AfterFunc(drainTime, func() { body.Close() })
	defer late.Stop()
	io.CopyN(io.Discard, body, 64<<10)
	body.Close()
}
