package upstream

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/narinfo"
)

// network has servers by host that answer at once, or never while they are down.
type network struct {
	mu    sync.Mutex
	down  map[string]bool
	texts map[string]string // of narinfos, by host and path
	asked map[string]int    // by host
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	host := r.URL.Host
	n.mu.Lock()
	n.asked[host]++
	down := n.down[host]
	n.mu.Unlock()
	if down {
		<-r.Context().Done()
		return nil, context.Cause(r.Context())
	}
	text, ok := n.texts[host+r.URL.Path]
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Cache-Control": {"max-age=0"}}, Body: io.NopCloser(strings.NewReader(text)), Request: r}
	if !ok {
		resp.StatusCode = http.StatusNotFound
	}
	return resp, nil
}

func anyNarinfo(*narinfo.Narinfo) bool { return true }

// TestLateServer: who has a narinfo from another server waits once for one that
// does not answer, and not again until it does.
func TestLateServer(t *testing.T) {
	const slow = 3*DefaultStall + perNarinfo
	for name, c := range map[string]struct {
		all, peer bool
		bare      bool // nothing is cached
		enough    func(*narinfo.Narinfo) bool
	}{
		"late": {enough: anyNarinfo}, "peer": {enough: anyNarinfo, peer: true}, "votes": {all: true},
		"without a cache": {enough: anyNarinfo, bare: true},
		"forged":          {enough: func(*narinfo.Narinfo) bool { return false }, all: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				text := string(fields(t, nil).Body())
				other := strings.Repeat("c", 32)
				n := &network{down: map[string]bool{"b": true}, asked: map[string]int{}, texts: map[string]string{
					"a/" + hash + ".narinfo": text, "b/" + hash + ".narinfo": text,
					"b/" + other + ".narinfo": strings.ReplaceAll(text, hash, other),
				}}
				dirs := []string{dir}
				if c.bare {
					dirs = nil
				}
				client := New(&http.Client{Transport: n}, dirs, Options{Enough: c.enough})
				parse := ParseServer
				if c.peer {
					parse = ParsePeer
				}
				a, err := parse("http://a")
				must(t, err)
				b, err := parse("http://b")
				must(t, err)
				// ask wants the answer of b, after a time, and how often it was asked.
				ask := func(what, hash string, want error, took time.Duration, asked int) {
					t.Helper()
					start, before := time.Now(), n.asked["b"]
					answers := client.AskHash(t.Context(), []*Server{b, a}, hash)
					if got := time.Since(start); got != took || !errors.Is(answers[0].Err, want) || (answers[1].Text == nil) == (hash != other) {
						t.Errorf("%s: after %v, want %v; %+v", what, got, took, answers)
					}
					synctest.Wait()
					if got := n.asked["b"] - before; got != asked {
						t.Errorf("%s: asked %d times, want %d", what, got, asked)
					}
				}
				ask("the first time", hash, context.DeadlineExceeded, slow, 1)
				ask("while it rests", hash, errResting, 0, 0)
				time.Sleep(restTime)
				if c.all {
					ask("where all count", hash, context.DeadlineExceeded, slow, 1)
					must(t, client.Close())
					return
				}
				ask("when it is late", hash, errLate, 0, 1)
				ask("while it is probed", hash, errLate, 0, 0)
				time.Sleep(slow)
				ask("after it was probed in vain", hash, errResting, 0, 0)
				time.Sleep(restTime)
				ask("for what nobody else has", other, context.DeadlineExceeded, slow, 1)
				time.Sleep(restTime)
				n.down["b"] = false
				ask("when it is back", hash, errLate, 0, 1)
				ask("when that is known", hash, nil, 0, 1)
				n.down["b"] = true
				ask("when it is gone again", hash, context.DeadlineExceeded, slow, 1)
				time.Sleep(restTime)
				n.down["b"] = false
				ask("when it has what nobody else has", other, nil, 0, 1)
				n.down["b"] = true
				ask("and is gone", hash, context.DeadlineExceeded, slow, 1)
				time.Sleep(restTime + lateTime)
				ask("after a long time", hash, context.DeadlineExceeded, slow, 1)
				must(t, client.Close())
				if c.bare {
					return
				}
				if _, err := os.Stat(client.cache.file(b, slowMark)); errors.Is(err, fs.ErrNotExist) != c.peer {
					t.Errorf("on disk: %v", err)
				}
			})
		})
	}
}

// TestLateServers has two of them, of which one is back.
func TestLateServers(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		text := string(fields(t, nil).Body())
		n := &network{down: map[string]bool{"a": true, "b": true}, asked: map[string]int{}, texts: map[string]string{"b/" + hash + ".narinfo": text}}
		client := New(&http.Client{Transport: n}, []string{dir}, Options{Enough: anyNarinfo})
		servers := []*Server{server(t, "http://a"), server(t, "http://b"), server(t, "http://c")}
		client.AskHash(t.Context(), servers, hash)
		time.Sleep(restTime)
		n.down = nil
		answers := client.AskHash(t.Context(), servers, hash)
		if !errors.Is(answers[0].Err, fs.ErrNotExist) || answers[1].Err != nil || !errors.Is(answers[2].Err, fs.ErrNotExist) {
			t.Errorf("%+v", answers)
		}
		must(t, client.Close())
	})
}

// TestNoTimeLeft: a server is not blamed for the time that others took.
func TestNoTimeLeft(t *testing.T) {
	sv := server(t, "http://a")
	n := &network{asked: map[string]int{}}
	c := New(&http.Client{Transport: n}, []string{t.TempDir()}, Options{})
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	a := c.AskHash(ctx, []*Server{sv}, hash)[0]
	if rests, late := c.lateness(sv); !errors.Is(a.Err, context.DeadlineExceeded) || rests || late || n.asked["a"] > 0 {
		t.Errorf("%v; rests %t, late %t, asked %d times", a.Err, rests, late, n.asked["a"])
	}
	must(t, c.Close())
}
