package substitute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"ersatz/internal/transport/httpclient"
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

	// A server has as long as three stalls and a while per narinfo, which a
	// line of 50 kbit/s holds: one that trickles would hold a build up for ever.
	perNarinfo = 500 * time.Millisecond

	// maxFailures is how many requests may fail before the rest is not sent.
	maxFailures = 8
)

// answer is what one server says of one item.
type answer struct {
	server *server
	text   []byte // nil if err is not
	err    error  // matches fs.ErrNotExist if the server said that it has none
}

// ask asks all servers at once for the narinfos of all paths, several at a
// time, or takes them from the cache. The answers are by path, then by server.
func (s *Substituter) ask(ctx context.Context, paths []storepath.Path) [][]answer {
	answers := make([][]answer, len(paths))
	for i := range answers {
		answers[i] = make([]answer, len(s.servers))
	}
	lookups := make([]*lookup, len(s.servers))
	var known sync.WaitGroup
	for j, sv := range s.servers {
		known.Go(func() { lookups[j] = s.known(sv, j, paths, answers) })
	}
	known.Wait()
	progress := newLookupProgress(s.messages, lookups)
	var asked sync.WaitGroup
	for j, l := range lookups {
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 3*s.o.Stall+time.Duration(len(l.missing))*perNarinfo)
			defer cancel()
			var group errgroup.Group
			group.SetLimit(parallel)
			for _, i := range l.missing {
				group.Go(func() error {
					answers[i][j] = s.askOne(ctx, l, paths[i])
					progress.done(j)
					return nil
				})
			}
			group.Wait()
		})
	}
	asked.Wait()
	return answers
}

// lookup is what is still to be asked of a server.
type lookup struct {
	server   *server
	missing  []int // indices of paths
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

// slowMark is what stands in the cache, in place of an item's hash, for a
// server that a request has waited for in vain.
const slowMark = "slow"

// known fills in what the cache says.
func (s *Substituter) known(sv *server, column int, paths []storepath.Path, answers [][]answer) *lookup {
	l := &lookup{server: sv, most: max(maxTexts/int64(len(s.servers)), leastTexts)}
	if _, slow := s.cache.get(sv, slowMark); slow {
		l.kill(errors.New("it did not answer in time a moment ago"))
	}
	for i, p := range paths {
		e, ok := s.cache.get(sv, p.Hash)
		switch {
		case !ok:
			l.missing = append(l.missing, i)
		case e.text == nil:
			answers[i][column] = answer{sv, nil, fmt.Errorf("%w a short time ago", fs.ErrNotExist)}
		default:
			answers[i][column] = answer{sv, e.text, l.count(e.text)}
		}
	}
	return l
}

// askOne asks a server for a narinfo, once more if the connection broke off,
// and keeps the answer. A server that does not answer at all is not asked for
// the rest, and if that took long, by no other process for a while.
func (s *Substituter) askOne(ctx context.Context, l *lookup, p storepath.Path) answer {
	sv := l.server
	if dead := l.dead.Load(); dead != nil {
		return answer{sv, nil, *dead}
	}
	text, ttl, err := s.get(ctx, sv, p.Hash+".narinfo")
	if err != nil && brokeOff(err) && ctx.Err() == nil {
		text, ttl, err = s.get(ctx, sv, p.Hash+".narinfo")
	}
	var status *errStatus
	switch {
	case err == nil:
		if err = l.count(text); err != nil {
			l.kill(err)
			return answer{sv, nil, err}
		}
		if sv.base.Scheme != "file" && isNarinfo(text, p) {
			s.cache.put(sv, p.Hash, text, ttl)
		}
	case errors.Is(err, fs.ErrNotExist):
		if sv.base.Scheme != "file" {
			s.cache.put(sv, p.Hash, nil, ttl)
		}
	case errors.Is(err, context.Canceled) || errors.As(err, &status):
	case waited(err) || unreachable(err) || l.failures.Add(1) >= maxFailures:
		if l.kill(err) {
			s.log.Warn("substitute server does not answer", slog.String("server", sv.String()), slog.Any("error", err))
			if waited(err) {
				s.cache.put(sv, slowMark, nil, slowTTL)
			}
		}
	default:
		s.log.Warn("narinfo cannot be read", slog.String("store_path", p.String()),
			slog.String("server", sv.String()), slog.Any("error", err))
	}
	return answer{sv, text, err}
}

// isNarinfo reports whether a text is worth keeping. A page that a hotel's
// network gives for everything would hide the item until it expires.
func isNarinfo(text []byte, p storepath.Path) bool {
	if len(text) > maxKept {
		return false
	}
	n, err := narinfo.Parse(text)
	return err == nil && n.StorePath == p.String()
}

// unreachable reports whether there was no connection at all.
func unreachable(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect")
}

// waited reports whether a request failed because nothing came.
func waited(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, httpclient.ErrIdle) || errors.As(err, &timeout) && timeout.Timeout()
}

// get reads a narinfo and says how long it can be kept.
func (s *Substituter) get(ctx context.Context, sv *server, name string) ([]byte, time.Duration, error) {
	body, _, resp, err := s.open(ctx, sv, name)
	if err != nil {
		return nil, maxAge(resp, absentTTL), err
	}
	defer drain(body)
	text, err := readAll(body)
	if err != nil {
		return nil, 0, err
	}
	if text == nil {
		text = []byte{}
	}
	return text, maxAge(resp, foundTTL), nil
}

// maxAge returns the max-age of Cache-Control (RFC 9111, section 5.2.2.1), or
// what holds without one.
func maxAge(resp *http.Response, otherwise time.Duration) time.Duration {
	if resp == nil {
		return otherwise
	}
	for _, directive := range strings.Split(resp.Header.Get("Cache-Control"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if seconds, err := strconv.ParseUint(value, 10, 31); err == nil && strings.EqualFold(name, "max-age") {
			return time.Duration(seconds) * time.Second
		}
	}
	return otherwise
}

// find returns, for each path in order, what can be had of it.
func (s *Substituter) find(ctx context.Context, paths []storepath.Path) []choice {
	acl, aclErr := s.acl()
	if aclErr != nil && aclErr.Error() != s.told {
		s.told = aclErr.Error()
		s.log.Error("nothing can be accepted", slog.Any("error", aclErr))
	}
	answers := s.ask(ctx, paths)
	choices := make([]choice, len(paths))
	var group errgroup.Group
	group.SetLimit(verifiers)
	for i, p := range paths {
		group.Go(func() error {
			choices[i] = choose(p, answers[i], acl)
			if aclErr != nil {
				choices[i].refused = append(choices[i].refused, aclErr)
			}
			return nil
		})
	}
	group.Wait()
	return choices
}
