package substitute

import (
	"slices"
	"strconv"
	"strings"
)

// Limits of what the daemon says in its environment.
const (
	maxServers = 64 // of the daemon's options
	maxFound   = 50 // of the discovery, as in Guix
)

// DaemonOptions are what guix-daemon says in _NIX_OPTIONS (Guix 1.5.0,
// nix/libstore/globals.cc, Settings::pack; guix/scripts/substitute.scm,
// find-daemon-option).
type DaemonOptions struct {
	// Servers are the URLs to ask, in order.
	Servers []string
	// Discover says that servers found in the local network are asked too.
	Discover bool
	// Trace says that progress is written for the client to draw.
	Trace bool
	// Deduplicate says that equal files are shared in the store.
	Deduplicate bool
}

// ParseOptions reads "name=value" lines. What an ordinary user's client sets
// has the prefix "untrusted-" and comes before the daemon's own, for the
// servers and the trace. Of two lines of one name the first counts,
// as in Guix; unknown names and lines of another form are passed over.
func ParseOptions(text string) DaemonOptions {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, found := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if _, double := values[name]; found && !double {
			values[name] = value
		}
	}
	get := func(name string) string {
		if value, ok := values["untrusted-"+name]; ok {
			return value
		}
		return values[name]
	}
	trace, err := strconv.Atoi(get("print-extended-build-trace"))
	o := DaemonOptions{
		Discover:    values["discover"] == "true",
		Deduplicate: values["deduplicate"] == "yes",
		Trace:       err == nil && trace > 0,
	}
	for _, u := range strings.Fields(get("substitute-urls")) {
		if len(o.Servers) < maxServers && !slices.Contains(o.Servers, u) {
			o.Servers = append(o.Servers, u)
		}
	}
	return o
}
