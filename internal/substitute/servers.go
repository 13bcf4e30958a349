package substitute

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"ersatz/internal/upstream"
)

// openServers returns those of the local network, which are nearest, and those
// of the daemon's options, each once.
func (s *Substituter) openServers() []*upstream.Server {
	var urls []string
	if s.daemon.Discover {
		found, err := readDiscovered(s.o.Discovered)
		if err != nil {
			s.log.Warn("discovered servers", slog.String("file", s.o.Discovered), slog.Any("error", err))
		}
		urls = found
	}
	var servers []*upstream.Server
	for _, u := range append(urls, s.daemon.Servers...) {
		sv, err := upstream.ParseServer(u)
		switch {
		case err != nil:
			s.tell("ignoring substitute server: %v\n", err)
		case !slices.ContainsFunc(servers, func(o *upstream.Server) bool { return o.URL() == sv.URL() }):
			servers = append(servers, sv)
		}
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
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		sv, err := upstream.ParseServer(line)
		if err != nil || sv.URL() != line || !strings.HasPrefix(line, "http://") || seen[line] {
			continue
		}
		seen[line] = true
		urls = append(urls, line)
	}
	return urls
}
