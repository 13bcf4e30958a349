package substitute_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/internal/substitute"
)

// transcript is what passed between a real guix-daemon 1.5.0 and its
// substituter, in testdata/daemon. The server was at 127.0.0.1:8181.
type transcript struct{ stdin, fd4, stderr string }

func readTranscript(t *testing.T, name string) transcript {
	t.Helper()
	read := func(file string) string {
		b, err := os.ReadFile(filepath.Join("testdata/daemon", name, file))
		must(t, err)
		return string(b)
	}
	return transcript{read("stdin"), read("fd4"), read("stderr")}
}

// guixServer serves what the server of the transcripts served, and returns a
// machine that has its key.
func guixServer(t *testing.T) (*fakeServer, *machine) {
	t.Helper()
	server := newServer(t)
	const name = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2.narinfo"
	text, err := os.ReadFile(filepath.Join("testdata/server", name))
	must(t, err)
	server.set(name, text)
	m := newMachine(t, server.URL)
	acl, err := os.ReadFile("testdata/acl")
	must(t, err)
	must(t, os.WriteFile(m.o.ACL, acl, 0o644))
	return server, m
}

// TestTranscripts: to the daemon's queries, the same bytes as guix substitute,
// also in what people see.
func TestTranscripts(t *testing.T) {
	server, m := guixServer(t)
	s := m.open()
	for i, name := range []string{"1-substitute.query", "3-substitute.query", "5-substitute.query"} {
		want := readTranscript(t, name)
		seen := len(m.messages.String())
		var out bytes.Buffer
		must(t, s.Query(t.Context(), strings.NewReader(want.stdin), &out))
		if out.String() != want.fd4 {
			t.Errorf("%s: replies %q, want %q", name, out.String(), want.fd4)
		}
		stderr := strings.ReplaceAll(m.messages.String()[seen:], server.URL, "http://127.0.0.1:8181")
		if stderr != want.stderr {
			t.Errorf("%s: messages %q, want %q", name, stderr, want.stderr)
		}
		if n := server.count("GET /bbbb"); n != 1 {
			t.Errorf("after query %d the narinfo was asked for %d times", i+1, n)
		}
	}
}

func TestTraceTranscript(t *testing.T) {
	want := readTranscript(t, "2-substitute.substitute")
	it := newItem(t, "item-1.0", tree(t, 10), "lzip")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	m.query("info " + it.path.String())
	seen := len(m.messages.String())
	m.wantInstalled(m.substitute(it)[0], it)
	got := strings.NewReplacer(
		m.dest(it), "/gnu/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-ersatz-small-1.0",
		server.URL, "http://127.0.0.1:8181",
		it.path.Base(), "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-ersatz-small-1.0",
		fmt.Sprintf(" %d", it.nars[0].FileSize), " 374",
	).Replace(m.messages.String()[seen:])
	// How often progress is written depends on time.
	once := slices.Compact(lines(want.stderr))
	if !slices.Equal(slices.Compact(lines(got)), once) {
		t.Errorf("messages %q, want %q", lines(got), once)
	}
}

func TestNoTrace(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 10), "lzip")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	m.daemon.Trace = false
	m.wantInstalled(m.substitute(it)[0], it)
	if strings.Contains(m.messages.String(), "@ ") {
		t.Errorf("messages have a trace:\n%s", m.messages.String())
	}
	m.wantMessage("Downloading " + server.URL + "/nar/lzip/")
}

func TestHaveAndInfo(t *testing.T) {
	server := newServer(t)
	var have, ask []string
	for i := range 40 {
		it := newItem(t, fmt.Sprintf("item-%d", i), tree(t, i), "zstd:3")
		ask = append(ask, it.path.String())
		if i%4 != 0 {
			server.add(t, it, key(t, 1))
			have = append(have, it.path.String())
		}
	}
	m := newMachine(t, server.URL)
	if got := m.query("have " + strings.Join(ask, " ")); !slices.Equal(got, append(have, "")) {
		t.Errorf("have says %q, want %q", got, have)
	}
	// Each once, what is no store path left out, and all from the cache.
	got := m.query("have " + strings.Join(append(ask, ask[1], "/gnu/store/x", "nonsense"), " "))
	if !slices.Equal(got, append(have, "")) {
		t.Errorf("have says %q, want %q", got, have)
	}
	if n := server.count("GET "); n != len(ask) {
		t.Errorf("%d requests for %d items", n, len(ask))
	}
	if got := m.query("info " + have[0]); len(got) != 7 || got[0] != have[0] ||
		got[1] != storeDir+"/"+strings.Repeat("d", 32)+"-x.drv" || got[2] != "1" || got[3] != have[0] || got[6] != "" {
		t.Errorf("info says %q", got)
	}
}

func TestCacheTimes(t *testing.T) {
	there := newItem(t, "there-1.0", tree(t, 1), "zstd:3")
	absent := newItem(t, "absent-1.0", tree(t, 2), "zstd:3")
	for _, c := range []struct {
		name, maxAge   string
		later          time.Duration
		found, missing int // requests in all
	}{
		{"at once", "", 0, 1, 1},
		{"after a minute", "", time.Minute, 1, 1},
		{"after two minutes", "", 2*time.Minute + time.Second, 1, 2},
		{"after 36 hours", "", 36*time.Hour + time.Second, 2, 2},
		{"max-age", "max-age=300", 2*time.Minute + time.Second, 1, 1},
		{"max-age over", "public, max-age=300", 5*time.Minute + time.Second, 2, 2},
		{"max-age of none", "max-age=0", 0, 2, 2},
		{"max-age of nonsense", "max-age=x", time.Minute, 1, 1},
		{"max-age of for ever", "max-age=2147483647", 31 * 24 * time.Hour, 2, 2},
		{"clock set back", "", -time.Hour, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := newServer(t)
			server.add(t, there, key(t, 1))
			server.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if c.maxAge != "" {
					w.Header().Set("Cache-Control", c.maxAge)
				}
				return false
			})
			m := newMachine(t, server.URL)
			now := time.Now()
			m.o.Now = func() time.Time { return now }
			line := "have " + there.path.String() + " " + absent.path.String()
			m.query(line)
			now = now.Add(c.later)
			if got := m.query(line); !slices.Equal(got, []string{there.path.String(), ""}) {
				t.Errorf("have says %q", got)
			}
			if n := server.count("GET /" + there.path.Hash); n != c.found {
				t.Errorf("%d requests for what is there, want %d", n, c.found)
			}
			if n := server.count("GET /" + absent.path.Hash); n != c.missing {
				t.Errorf("%d requests for what is absent, want %d", n, c.missing)
			}
		})
	}
}

// TestErrorsAreNotCached: a server in trouble is asked again.
func TestErrorsAreNotCached(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	server.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		http.Error(w, "no", http.StatusServiceUnavailable)
		return true
	})
	m := newMachine(t, server.URL)
	m.query("have " + it.path.String())
	server.intercept(nil)
	if got := m.query("have " + it.path.String()); len(got) != 2 {
		t.Errorf("have says %q after the server came back", got)
	}
}

func TestDeadServer(t *testing.T) {
	server := newServer(t)
	var ask []string
	for i := range 50 {
		it := newItem(t, fmt.Sprintf("item-%d", i), tree(t, i), "zstd:3")
		server.add(t, it, key(t, 1))
		ask = append(ask, it.path.String())
	}
	silent := newServer(t)
	over := make(chan struct{}) // net/http does not see the end of a connection that further requests came on
	defer close(over)
	silent.intercept(func(http.ResponseWriter, *http.Request) bool {
		<-over
		return true
	})
	m := newMachine(t, "http://127.0.0.1:1", silent.URL, server.URL)
	m.o.Stall = time.Second
	if got := m.query("have " + strings.Join(ask, " ")); len(got) != len(ask)+1 {
		t.Errorf("have says %q", got)
	}
	if n := silent.count("GET"); n > 16 {
		t.Errorf("a server that does not answer was asked %d times", n)
	}
	asked := silent.count("GET")
	if got := m.query("have " + strings.Join(ask, " ")); len(got) != len(ask)+1 || silent.count("GET") != asked {
		t.Errorf("have says %q; the slow server was asked %d times more", got, silent.count("GET")-asked)
	}
	for url, times := range map[string]int{"http://127.0.0.1:1": 2, silent.URL: 1} {
		if n := strings.Count(m.log.String(), "does not answer\" server="+url); n != times {
			t.Errorf("the log names %s %d times:\n%s", url, n, m.log.String())
		}
	}
}

func TestUnwritableState(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o644))
	m := newMachine(t, server.URL)
	m.o.States = []string{file, filepath.Join(file, "below")}
	m.wantInstalled(m.substitute(it)[0], it)
	// The second of two folders is used where the first cannot be.
	m.o.States = []string{file, t.TempDir()}
	m.query("have " + it.path.String())
	m.query("have " + it.path.String())
	if n := server.count("GET /" + it.path.Hash); n != 2 {
		t.Errorf("%d requests: nothing was cached", n)
	}
}

// TestStateGoesAway: a cache that breaks while it is used is none.
func TestStateGoesAway(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	s := m.open()
	must(t, os.Rename(m.o.States[0], m.o.States[0]+".gone"))
	must(t, os.WriteFile(m.o.States[0], nil, 0o644))
	m.wantInstalled(m.substituteBy(s, it)[0], it)
}

func TestDamagedCache(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	m.query("have " + it.path.String())
	files, err := filepath.Glob(filepath.Join(m.o.States[0], "narinfo/*/"+it.path.Hash))
	if err != nil || len(files) != 1 {
		t.Fatalf("cache has %q, %v", files, err)
	}
	good, err := os.ReadFile(files[0])
	must(t, err)
	for i, bad := range [][]byte{nil, good[:len(good)-1], make([]byte, len(good)), append(good, 'x')} {
		must(t, os.WriteFile(files[0], bad, 0o644))
		if got := m.query("have " + it.path.String()); len(got) != 2 {
			t.Errorf("damage %d: have says %q", i, got)
		}
		if n := server.count("GET"); n != i+2 {
			t.Errorf("damage %d: %d requests", i, n)
		}
	}
}

func TestDiscovered(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1), "zstd:3")
	near, far := newServer(t), newServer(t)
	near.add(t, it, key(t, 2)) // of a machine nearby, whose key nobody knows
	far.add(t, it, key(t, 1))
	m := newMachine(t, far.URL)
	m.o.Discovered = filepath.Join(t.TempDir(), "publish")
	must(t, os.WriteFile(m.o.Discovered, []byte("file:///etc\n"+near.URL+"\n\nnonsense\n"), 0o644))
	m.wantInstalled(m.substitute(it)[0], it)
	if near.count("GET") != 0 {
		t.Error("a discovered server was asked though the daemon did not say so")
	}
	m.daemon.Discover = true
	must(t, os.RemoveAll(m.o.States[0]))
	must(t, removeItem(m, it))
	m.messages = safeBuffer{}
	m.wantInstalled(m.substitute(it)[0], it)
	if want := near.URL + "/" + it.nars[0].URL; m.source() != want {
		t.Errorf("source is %q, want %q", m.source(), want)
	}
}

func removeItem(m *machine, it *item) error {
	makeWritable(m.dest(it))
	return os.RemoveAll(m.dest(it))
}

func TestBadServerURL(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, "ftp://example", "http://", "http://a/?b", "file://host/x", ":", server.URL)
	m.wantInstalled(m.substitute(it)[0], it)
	if n := strings.Count(m.messages.String(), "ignoring substitute server"); n != 5 {
		t.Errorf("%d servers are ignored", n)
	}
}

func TestMalformedRequests(t *testing.T) {
	m := newMachine(t)
	s := m.open()
	for _, in := range []string{
		"\n", "want /gnu/store/x\n", "substitute a b\n", "info /gnu/store/x", "have\x00\n", "have \r\n",
		strings.Repeat("x", 17<<20) + "\n",
	} {
		var out bytes.Buffer
		if err := s.Query(t.Context(), strings.NewReader(in), &out); !errors.Is(err, substitute.ErrProtocol) || out.Len() > 0 {
			t.Errorf("query %.40q: %v, replies %q", in, err, out.String())
		}
	}
	for _, in := range []string{
		"substitute\n", "substitute /gnu/store/x\n", "substitute a b c\n", "substitute a b\n", "substitute a /\n",
		"substitute a /b/../c\n", "info a\n", "substitute a /b",
	} {
		var out bytes.Buffer
		if err := s.Substitute(t.Context(), strings.NewReader(in), &out); !errors.Is(err, substitute.ErrProtocol) || out.Len() > 0 {
			t.Errorf("substitute %.40q: %v, replies %q", in, err, out.String())
		}
	}
	var out bytes.Buffer
	must(t, s.Substitute(t.Context(), strings.NewReader("substitute nonsense /b/c\n"), &out))
	if out.String() != "not-found\n" {
		t.Errorf("reply %q", out.String())
	}
}

func TestBrokenReplies(t *testing.T) {
	m := newMachine(t)
	err := m.open().Query(t.Context(), strings.NewReader("have /gnu/store/x\nhave /gnu/store/x\n"), brokenPipe{})
	if !errors.Is(err, fs.ErrClosed) {
		t.Errorf("error %v", err)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, fs.ErrClosed }

// TestClosureIsLookedUp: what an item refers to is looked up before the daemon
// asks for it, all at once, and once.
func TestClosureIsLookedUp(t *testing.T) {
	server := newServer(t)
	m := newMachine(t, server.URL)
	var leaves []*item
	top := newItem(t, "top", tree(t, 999), "zstd")
	for k := range 5 {
		it := newItem(t, fmt.Sprintf("leaf-%d", k), tree(t, 1000+k), "zstd")
		server.add(t, it, key(t, 1))
		leaves = append(leaves, it)
		top.fields.References = append(top.fields.References, it.path.Base())
	}
	server.add(t, top, key(t, 1))
	var asked atomic.Int32
	all := make(chan struct{})
	server.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/"+top.path.Hash+".narinfo" {
			return false
		}
		if asked.Add(1) == int32(len(leaves)) {
			close(all)
		}
		select { // none is answered alone
		case <-all:
		case <-r.Context().Done():
		}
		return false
	})
	s := m.open()
	for _, it := range append([]*item{top}, leaves...) {
		var out bytes.Buffer
		must(t, s.Query(t.Context(), strings.NewReader("info "+it.path.String()+"\n"), &out))
		if !strings.HasPrefix(out.String(), it.path.String()) {
			t.Errorf("reply %q", out.String())
		}
		if n := server.count("GET /" + it.path.Hash + ".narinfo"); n != 1 {
			t.Errorf("%s was asked for %d times", it.path, n)
		}
	}
}
