package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"ersatz/narinfo"
	"ersatz/storepath"
)

// Bounds of what is asked of servers for one request.
const (
	// maxTexts bounds what all servers together may answer, in bytes, and
	// leastTexts what each of them may, however many there are.
	maxTexts   = 256 << 20
	leastTexts = 16 << 20

	// maxKept bounds the narinfos that are cached, in bytes: real ones have
	// some thousands.
	maxKept = 64 << 10

	// maxParsed and maxUnknown bound the narinfos that are held as parsed until
	// they are judged, in bytes and in fields without a meaning: one of such fields
	// alone takes fifteen times the memory of its text.
	maxParsed  = 8 << 10
	maxUnknown = 16

	// A server has as long as three stalls and a while per narinfo, which a
	// line of 50 kbit/s holds: one that trickles would hold a build up for ever.
	perNarinfo = 500 * time.Millisecond

	// parallel is how many narinfos one server is asked for at once.
	parallel = 16

	// maxFailures is how many requests may fail before the rest is not sent.
	maxFailures = 8
)

// Answer is what one server says of one item.
type Answer struct {
	Server *Server
	Text   []byte // nil if Err is not
	Err    error  // matches fs.ErrNotExist if the server said that it has none
	// Expires is until when the answer holds; the zero time if it is not one to
	// keep.
	Expires time.Time

	n *narinfo.Narinfo // what Text says, if that was read and is small
}

// query is an item that servers are asked for.
type query struct {
	hash string // the hash part of its store path
	path string // its store path, "" if that is not known
}

// file returns the name of the item's narinfo at a server.
func (q query) file() string { return q.hash + ".narinfo" }

// Ask asks all servers at once for the narinfos of all paths, several at a
// time, or takes them from the cache. The answers are by path, then by server.
// They are texts, unread: Choose reads them. The servers may be asked for
// something else at the same time.
func (c *Client) Ask(ctx context.Context, servers []*Server, paths []storepath.Path) [][]Answer {
	queries := make([]query, len(paths))
	for i, p := range paths {
		queries[i] = query{p.Hash, p.String()}
	}
	return c.ask(ctx, servers, queries)
}

// AskHash is Ask for an item of which only the hash part of its path is known:
// 32 characters of nixbase32. Nobody has an item with another one.
func (c *Client) AskHash(ctx context.Context, servers []*Server, hash string) []Answer {
	if !storepath.ValidHash(hash) { // which would be a file name in the cache
		answers := make([]Answer, len(servers))
		for j, sv := range servers {
			answers[j] = Answer{Server: sv, Err: fmt.Errorf("hash part %.80q: %w", hash, fs.ErrNotExist)}
		}
		return answers
	}
	return c.ask(ctx, servers, []query{{hash: hash}})[0]
}

func (c *Client) ask(ctx context.Context, servers []*Server, queries []query) [][]Answer {
	answers := make([][]Answer, len(queries))
	for i := range answers {
		answers[i] = make([]Answer, len(servers))
	}
	lookups := make([]*lookup, len(servers))
	most := max(maxTexts/int64(max(len(servers), 1)), leastTexts)
	var known sync.WaitGroup
	for j, sv := range servers {
		lookups[j] = &lookup{server: sv, most: most}
		known.Go(func() { c.known(lookups[j], j, queries, answers) })
	}
	known.Wait()
	pending := make([]Pending, len(servers))
	for j, l := range lookups {
		pending[j] = Pending{l.server, len(l.missing), len(queries) - len(l.missing)}
	}
	answered := c.o.Progress(pending)
	all := func(servers []int) {
		var asked sync.WaitGroup
		for _, j := range servers {
			asked.Go(func() { c.askAll(ctx, lookups[j], j, queries, answers, answered) })
		}
		asked.Wait()
	}
	var first, late []int
	for j, l := range lookups {
		if l.late && c.o.Enough != nil {
			late = append(late, j)
		} else {
			first = append(first, j)
		}
	}
	all(first)
	for _, j := range late { // before one of them is asked, and answers
		c.spare(lookups[j], j, queries, answers, answered)
	}
	all(late)
	return answers
}

// askAll asks a server, the one at index j, for all that is missing.
func (c *Client) askAll(ctx context.Context, l *lookup, j int, queries []query, answers [][]Answer, answered func(j int)) {
	ctx, cancel := context.WithTimeout(ctx, 3*c.o.Stall+time.Duration(len(l.missing))*perNarinfo)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(parallel)
	for _, i := range c.pipeline(ctx, l, j, queries, answers, answered) {
		group.Go(func() error {
			answers[i][j] = c.askOne(ctx, l, queries[i])
			answered(j)
			return nil
		})
	}
	group.Wait()
}

// spare has a server that was late not asked, while somebody waits, for what
// another one has a narinfo of that will do.
func (c *Client) spare(l *lookup, j int, queries []query, answers [][]Answer, answered func(j int)) {
	left := l.missing
	l.missing = nil
	for _, i := range left {
		if !slices.ContainsFunc(answers[i], func(a Answer) bool {
			n := queries[i].answer(a.Text)
			return n != nil && c.o.Enough(n)
		}) {
			l.missing = append(l.missing, i)
			continue
		}
		answers[i][j] = Answer{Server: l.server, Err: errLate}
		answered(j)
	}
	if len(l.missing) == 0 && len(left) > 0 {
		c.probe(l.server, queries[left[0]])
	}
}

// lookup is what is still to be asked of a server.
type lookup struct {
	server   *Server
	late     bool  // see lateness
	missing  []int // indices of queries
	most     int64 // bytes that it may answer
	bytes    atomic.Int64
	failures atomic.Int32
	dead     atomic.Pointer[error] // why it is not asked for the rest
}

// kill has the server not asked for the rest. It reports whether it was asked
// until now.
func (l *lookup) kill(err error) bool { return l.dead.CompareAndSwap(nil, &err) }

// count adds to what the server has answered.
func (l *lookup) count(text []byte) error {
	if l.bytes.Add(int64(len(text))) > l.most {
		return fmt.Errorf("narinfos of more than %d bytes", l.most)
	}
	return nil
}

// known fills in what the cache says.
func (c *Client) known(l *lookup, column int, queries []query, answers [][]Answer) {
	rests, late := c.lateness(l.server)
	if rests {
		l.kill(errResting)
	}
	l.late = late && !rests
	for i, q := range queries {
		e, ok := c.cache.get(l.server, q.hash)
		a := Answer{Server: l.server, Expires: time.Unix(e.expires, 0)}
		switch {
		case !ok:
			l.missing = append(l.missing, i)
			continue
		case e.text == nil:
			a.Err = fmt.Errorf("%w a short time ago", fs.ErrNotExist)
		default:
			if a.Err = l.count(e.text); a.Err == nil {
				a.Text = e.text
			}
		}
		answers[i][column] = a
	}
}

// askOne asks a server for a narinfo, once more if the connection broke off,
// and keeps the answer. A server that does not answer at all is not asked for
// the rest, and if that took long, by no other process for a while.
func (c *Client) askOne(ctx context.Context, l *lookup, q query) Answer {
	sv := l.server
	if dead := l.dead.Load(); dead != nil {
		return Answer{Server: sv, Err: *dead}
	}
	if err := ctx.Err(); err != nil {
		return Answer{Server: sv, Err: err} // others have used its time up
	}
	text, ttl, err := c.read(ctx, sv, q.file())
	if err != nil && BrokeOff(err) && ctx.Err() == nil {
		text, ttl, err = c.read(ctx, sv, q.file())
	}
	return c.settle(ctx, l, q, text, ttl, err)
}

// settle makes an answer of what a request for a narinfo has come to.
func (c *Client) settle(ctx context.Context, l *lookup, q query, text []byte, ttl time.Duration, err error) Answer {
	sv := l.server
	var expires time.Time
	var n *narinfo.Narinfo
	var status *statusError
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.As(err, &status) {
		sv.silent.Store(false)
		if l.late {
			c.forgive(sv)
		}
	}
	switch {
	case err == nil:
		if err = l.count(text); err != nil {
			l.kill(err)
			return Answer{Server: sv, Err: err}
		}
		if n = q.answer(text); n != nil {
			expires = c.until(sv, ttl)
			c.keep(sv, q.hash, text, expires)
			if len(text) > maxParsed || len(n.Unknown) > maxUnknown {
				n = nil // read again when it is judged
			}
		}
	case errors.Is(err, fs.ErrNotExist):
		expires = c.until(sv, ttl)
		c.keep(sv, q.hash, nil, expires)
	case errors.Is(err, context.Canceled) || errors.As(err, &status):
	case Waited(err) || unreachable(err) || l.failures.Add(1) >= maxFailures:
		if l.kill(err) {
			level := sv.level()
			if sv.silent.Swap(true) {
				level = slog.LevelDebug // it was said: the daemon asks path by path
			}
			c.log.Log(ctx, level, "substitute server does not answer", slog.String("server", sv.String()), slog.Any("error", err))
			if Waited(err) {
				c.waited(sv)
			}
		}
	default:
		c.log.Log(ctx, sv.level(), "narinfo cannot be read", slog.String("store_path", cmp.Or(q.path, q.hash)),
			slog.String("server", sv.String()), slog.Any("error", err))
	}
	return Answer{Server: sv, Text: text, Err: err, Expires: expires, n: n}
}

// keep keeps an answer until it expires. What peers say is not kept: anybody can
// be one, and fill the disk.
func (c *Client) keep(sv *Server, hash string, text []byte, expires time.Time) {
	if !sv.peer {
		c.cache.put(sv, hash, text, expires)
	}
}

// until returns when an answer that holds for ttl expires, the zero time if it
// is not to be kept: a folder is as near as the cache.
func (c *Client) until(sv *Server, ttl time.Duration) time.Time {
	if sv.IsFolder() || ttl <= 0 {
		return time.Time{}
	}
	return c.o.Now().Add(min(ttl, maxTTL))
}

// answer reads a text, and returns nil if it is not worth keeping. A page that a
// hotel's network gives for everything would hide the item until it expires.
func (q query) answer(text []byte) *narinfo.Narinfo {
	if len(text) > maxKept {
		return nil
	}
	n, err := narinfo.Parse(text)
	if err != nil {
		return nil
	}
	if q.path != "" && n.StorePath == q.path {
		return n
	}
	if p, err := storepath.Parse(n.StorePath); q.path == "" && err == nil && p.Hash == q.hash {
		return n
	}
	return nil
}

// read reads a narinfo and says how long it can be kept.
func (c *Client) read(ctx context.Context, sv *Server, name string) ([]byte, time.Duration, error) {
	body, header, err := c.open(ctx, sv, name)
	if err != nil {
		return nil, maxAge(header, absentTTL), err
	}
	defer drain(body)
	text, err := readAll(body, body.Size)
	if err != nil {
		return nil, 0, err
	}
	return text, maxAge(header, foundTTL), nil
}

// maxAge returns the max-age of Cache-Control (RFC 9111, section 5.2.2.1), or
// what holds without one.
func maxAge(header http.Header, otherwise time.Duration) time.Duration {
	for _, directive := range strings.Split(header.Get("Cache-Control"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if seconds, err := strconv.ParseUint(value, 10, 31); err == nil && strings.EqualFold(name, "max-age") {
			return time.Duration(seconds) * time.Second
		}
	}
	return otherwise
}
