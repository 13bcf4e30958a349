package stores

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ersatz/eris"
	"ersatz/eriscbor"
	"ersatz/internal/block"
	"ersatz/internal/block/memstore"
)

// TestOpenFails wants what was opened to be closed again, and the URL at fault to
// be named.
func TestOpenFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	plan := Plan{Serve: mustParse(t, "coap+tcp://"+at), From: mustParse(t, "http://127.0.0.1:1")}
	if _, err := Open(t.Context(), plan, Options{Library: newLibrary(t)}); err == nil || !strings.HasPrefix(err.Error(), "coap+tcp://"+at) {
		t.Errorf("an address that is taken: %v", err)
	}
	l.Close()
	plan.Serve = append(plan.Serve, mustParse(t, "coaps://127.0.0.1:0?identity=a&key-file=/none")...)
	if _, err := Open(t.Context(), plan, Options{Library: newLibrary(t)}); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "coaps://") {
		t.Errorf("no key: %v", err)
	}
	if l, err = net.Listen("tcp", at); err != nil {
		t.Fatalf("still in use: %v", err)
	}
	l.Close()
}

// TestRunFails wants the URL of a listener that broke to be named.
func TestRunFails(t *testing.T) {
	s, err := Open(t.Context(), Plan{Serve: mustParse(t, "http://127.0.0.1:0")}, Options{Library: newLibrary(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, net.ErrClosed) || !strings.HasPrefix(err.Error(), "http://127.0.0.1:0: ") {
		t.Errorf("run: %v", err)
	}
}

func TestKeys(t *testing.T) {
	name := filepath.Join(t.TempDir(), "key")
	for _, c := range []struct{ text, secret string }{
		{"0123456789abcdef", "0123456789abcdef"},
		{"0123456789 abcde\r\n", "0123456789 abcde"},
		{"0123456789abcde\n", ""},
		{"", ""},
		{strings.Repeat("x", maxKey), strings.Repeat("x", maxKey)},
		{strings.Repeat("x", maxKey+1), ""},
	} {
		if err := os.WriteFile(name, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := readKey("me", name)
		if string(key.Secret) != c.secret || (err == nil) != (c.secret != "") || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%.20q: %d bytes, %v", c.text, len(key.Secret), err)
		}
		if err != nil && c.text != "" && strings.Contains(err.Error(), strings.TrimSpace(c.text)) {
			t.Errorf("repeats the key: %v", err)
		}
	}
}

// TestUser wants user and password to be sent, and never to be told.
func TestUser(t *testing.T) {
	put := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "m@e" || password != "s3cret" {
			t.Errorf("user %q", user)
		}
		if put++; put > 1 {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	url := strings.Replace(srv.URL, "://", "://m%40e:s3cret@", 1) + "?put"
	set := start(t, Plan{To: mustParse(t, url)}, Options{})
	b := make([]byte, 1<<10)
	var errs []error
	for range 2 {
		errs = append(errs, set.Putters()[0].Put(t.Context(), eris.BlockRef(b), b))
	}
	srv.Close()
	errs = append(errs, set.Putters()[0].Put(t.Context(), eris.BlockRef(b), b))
	if errs[0] != nil || errs[1] == nil || errs[2] == nil {
		t.Fatal(errs)
	}
	for _, said := range []string{set.Putters()[0].Name, errs[1].Error(), errs[2].Error()} {
		if strings.Contains(said, "s3cret") || strings.Contains(said, "m@e") || strings.Contains(said, "m%40e") {
			t.Errorf("tells a secret: %s", said)
		}
	}
}

// TestBundleDamaged wants wrong blocks of a bundle to be told of, not all of them
// one by one, and a file that is none to be refused.
func TestBundleDamaged(t *testing.T) {
	var bundle bytes.Buffer
	w := eriscbor.NewWriter(&bundle)
	for i := range byte(maxWrong + 5) {
		if err := w.Block(eris.Ref{i}, make([]byte, 1<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "bundle")
	if err := os.WriteFile(name, bundle.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	start(t, Plan{From: mustParse(t, "file://"+name)}, Options{Log: slog.New(slog.NewTextHandler(&said, nil))})
	if strings.Count(said.String(), `msg="wrong block"`) != maxWrong || !strings.Contains(said.String(), "count=15") {
		t.Errorf("said:\n%s", said.String())
	}
	if err := os.WriteFile(name, []byte("no bundle"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Plan{From: mustParse(t, "file://"+name)}, Options{}); !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("no bundle: %v", err)
	}
}

func TestFile(t *testing.T) {
	t.Chdir(t.TempDir())
	u, err := File("a b/../c?d")
	dir, _ := os.Getwd() // it was changed to
	if want := "file://" + dir + "/c%3Fd"; err != nil || u.String() != want || !u.Gets() {
		t.Errorf("%s, want %s, %v", u, want, err)
	}
	if again, err := Parse(u.Full()); err != nil || again.Full() != u.Full() {
		t.Errorf("%s, %v", again, err)
	}
}

// TestPutAll wants an error of either side to end it.
func TestPutAll(t *testing.T) {
	l := newLibrary(t)
	offer := func(to block.Putter, open func(context.Context) (block.Content, error)) error {
		return putAll{to}.Offer(t.Context(), l.shared, open)
	}
	open := func(ctx context.Context) (block.Content, error) { return l.Open(ctx, l.shared.ReadCap.Root) }
	store := memstore.New()
	if err := offer(store, open); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Get(t.Context(), l.shared.ReadCap.Root); err != nil {
		t.Error(err)
	}
	if err := offer(full{}, open); !errors.Is(err, errLimit) || !strings.Contains(err.Error(), "block ") {
		t.Errorf("a store that fails: %v", err)
	}
	none := func(ctx context.Context) (block.Content, error) { return l.Open(ctx, eris.Ref{}) }
	if err := offer(store, none); !errors.Is(err, eris.ErrNotFound) {
		t.Errorf("a content that has gone: %v", err)
	}
}

// full is a store that takes nothing.
type full struct{}

func (full) Put(context.Context, eris.Ref, []byte) error { return errLimit }

// TestNames wants a network to have a name that stays.
func TestNames(t *testing.T) {
	for url, want := range map[string]string{
		"ipfs:?listen=/a": "ipfs", "bittorrent:?tr=http://h/a": "bittorrent", "ndn:?prefix=/a": "ndn", "gnunet:/s": "gnunet",
		"coap://h/x": "coap://h/…", "http://h?get": "http://h?get", "ipfs+http://h": "ipfs+http://h",
	} {
		if got := one(t, url).name(); got != want {
			t.Errorf("%s is called %s", url, got)
		}
	}
}

func TestMergeWrong(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"gnunet:", "gnunet:/s", "there is one gnunet: for all"},
		{"coaps://h?identity=a&key-file=/k", "coaps://h?identity=b&key-file=/k", "differ in identity"},
		{"bittorrent:?dht=on", "bittorrent:?dht=off", "differ in dht"},
	} {
		plan := Plan{From: mustParse(t, c.a), Serve: mustParse(t, c.b)}
		if _, err := Open(t.Context(), plan, Options{}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestDocumented wants each scheme and each parameter in docs/stores.md.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/stores.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range allSchemes() {
		for _, want := range append(s.names(), s.name+":") {
			if !regexp.MustCompile("[`?&]" + regexp.QuoteMeta(want) + "[`=:/]?").Match(text) {
				t.Errorf("docs/stores.md does not have %s of %s", want, s.name)
			}
		}
	}
}
