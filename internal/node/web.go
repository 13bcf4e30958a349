package node

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"ersatz/internal/keep"
	"ersatz/internal/metrics"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/transport/peer"
	"ersatz/internal/upstream"
	"ersatz/internal/web"
	"ersatz/storepath"
)

const (
	narinfoType = "application/x-nix-narinfo;charset=utf-8"
	narType     = "application/x-nix-archive"

	bodyTime = 30 * time.Second // for a request's body

	// nixPath is where Nix upstreams answer.
	nixPath = "nix"

	// cachePriority comes before that of cache.nixos.org, 40: Nix asks the
	// smaller one first.
	cachePriority = 10
)

// Web returns the handler of the sockets that other programs and machines
// reach: substitutes for this machine, and what is shared for others.
func (n *Node) Web() http.Handler { return http.HandlerFunc(n.web) }

func (n *Node) web(w http.ResponseWriter, r *http.Request) {
	addr, local := client(r)
	n.logRequest(r)
	face := metrics.Shared
	if local {
		face = metrics.Local
	}
	n.o.Requests.Serve(w, r, face, requestKind(r.URL.Path), func(w http.ResponseWriter, r *http.Request) {
		timeBody(w, r) // also of who is refused
		if !local && !n.o.Share.serves(addr) {
			web.Plain(w, r, http.StatusForbidden, "This node does not share with "+addr.String())
			return
		}
		n.answer(w, r, local)
	})
}

// requestKind returns what counts a request to Web.
func requestKind(path string) metrics.Kind {
	switch path {
	case n2r.BlockPath:
		return metrics.Block
	case n2r.BatchPath:
		return metrics.Batch
	case peer.HavePath:
		return metrics.Have
	}
	path = strings.TrimPrefix(path, "/"+nixPath)
	switch {
	case strings.HasSuffix(path, ".narinfo"):
		return metrics.Narinfo
	case strings.HasPrefix(path, "/"+narPath):
		return metrics.NarFile
	}
	return metrics.Other
}

// answer answers this machine, or others that may be served.
func (n *Node) answer(w http.ResponseWriter, r *http.Request, local bool) {
	limit, handlers := n.upload, n.shared
	if local {
		limit, handlers = nil, n.all
	}
	w = newOutlet(w, r, limit)
	switch r.URL.Path {
	case n2r.BlockPath, n2r.BatchPath:
		handlers.blocks.ServeHTTP(w, r)
		return
	case peer.HavePath:
		handlers.have.ServeHTTP(w, r)
		return
	}
	parts, ok := web.Read(w, r)
	if !ok {
		return
	}
	// A node on this machine gets what those on others get: two that ask each
	// other would go on for ever.
	n.route(w, r, parts, local && r.Header.Get(upstream.OnlyKept) == "")
}

// timeBody bounds how long a request's body may take, and not its answer. The
// connection's next request sets the deadline anew.
func timeBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 {
		return
	}
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Now().Add(bodyTime)) // fails in tests alone
	r.Body = timedBody{r.Body, control}
}

// timedBody takes its deadline away when it has ended.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

func (n *Node) logRequest(r *http.Request) {
	n.log.DebugContext(r.Context(), "request", slog.String("method", web.Clip(r.Method)),
		slog.String("path", web.Clip(r.URL.EscapedPath())), slog.String("client", r.RemoteAddr))
}

// route answers GET and HEAD of a path.
func (n *Node) route(w http.ResponseWriter, r *http.Request, parts []string, local bool) {
	if len(parts) == 1 && local {
		switch {
		case parts[0] == "healthz":
			web.Plain(w, r, http.StatusOK, "ok\n")
			return
		case "/"+parts[0] == metrics.Path && n.o.Metrics != nil:
			n.o.Metrics.ServeHTTP(w, r)
			return
		}
	}
	kind := Guix
	f := n.upstreams.root()
	if len(parts) > 0 && parts[0] == nixPath {
		kind, parts = Nix, parts[1:]
		f = n.upstreams.face(Nix)
	}
	if f == nil {
		c := call{n, w, r, &face{kind: kind}, local}
		c.refuse("", soon, fmt.Errorf("%w: which store it has is not known yet", errNoAnswer))
		return
	}
	c := call{n, w, r, f, local}
	switch {
	case len(parts) == 1 && parts[0] == infoFile:
		c.info()
	case len(parts) == 1 && strings.HasSuffix(parts[0], ".narinfo"):
		c.narinfo(strings.TrimSuffix(parts[0], ".narinfo"))
	case len(parts) == 2 && parts[0]+"/" == narPath:
		c.nar(parts[1])
	default:
		web.NotFound(w, r, 0)
	}
}

// call is one request to a face.
type call struct {
	*Node
	w     http.ResponseWriter
	r     *http.Request
	face  *face
	local bool
}

// info answers nix-cache-info.
func (c call) info() {
	text := fmt.Sprintf("StoreDir: %s\nWantMassQuery: 1\nPriority: %d\n", c.face.storeDir, cachePriority)
	web.Send(c.w, c.r, http.StatusOK, "text/plain;charset=utf-8", []byte(text))
}

// narinfo answers HASH.narinfo.
func (c call) narinfo(hash string) {
	if !storepath.ValidHash(hash) {
		web.NotFound(c.w, c.r, 0)
		return
	}
	if c.local {
		c.refs.asked(hash)
	}
	x, ttl, err := c.find(hash)
	if err != nil {
		c.refuse(hash, ttl, err)
		return
	}
	web.MaxAge(c.w.Header(), ttl)
	web.Send(c.w, c.r, http.StatusOK, narinfoType, rewrite(x.shown, x.choice.Path, x.size, x.hint))
	if !c.local {
		return
	}
	c.refs.follow(c.face, x)
	if !x.whole {
		c.transfers.Ahead([]Want{x.want(c.face.kind)})
	}
}

// find looks an item up: for this machine everywhere, for others among what is
// kept and shared.
func (c call) find(hash string) (found, time.Duration, error) {
	if c.local {
		return c.lookup(c.r.Context(), c.face, hash)
	}
	x, err := c.kept("", hash, c.o.ShareKeys.Verify)
	if err != nil {
		return found{}, soon, err
	}
	return x, keptTTL, nil
}

// refuse says that an item cannot be had. That it is not there is said only if that
// is known: Nix believes it for an hour. What went wrong is believed for no longer
// than a minute, by Guix too.
func (c call) refuse(hash string, ttl time.Duration, err error) {
	ctx := c.r.Context()
	if ctx.Err() != nil {
		return // nobody is there any more
	}
	withheld := errors.Is(err, errWithheld)
	if errors.Is(err, errAbsent) || !c.local && (withheld || errors.Is(err, keep.ErrNone) || errors.Is(err, ErrNone)) {
		web.NotFound(c.w, c.r, ttl)
		return
	}
	c.log.InfoContext(ctx, "item cannot be had", slog.String("hash", hash), slog.Any("error", err))
	if withheld {
		web.NotFound(c.w, c.r, soon)
		return
	}
	c.w.Header().Set("Retry-After", strconv.Itoa(int(soon/time.Second)))
	web.Plain(c.w, c.r, http.StatusServiceUnavailable, "It cannot be had at the moment")
}
