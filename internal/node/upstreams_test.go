package node

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func testUpstreams(t *testing.T, file string, c *fakeClient, urls ...string) *upstreams {
	t.Helper()
	u, err := newUpstreams(file, servers(t, urls...), c, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestLearn(t *testing.T) {
	const second = "http://second.example"
	r := newRig(t)
	file := filepath.Join(r.dir, "upstreams.json")
	u := testUpstreams(t, file, r.client, guixServer, nixServer)
	if err := u.learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f := u.face(Guix); f.storeDir != "/gnu/store" || len(f.servers) != 1 || u.root() != f || !u.complete() {
		t.Errorf("faces %+v", f)
	}
	// Two of one kind that differ: the second is not used, and the error says so.
	r.client.files[second+"/nix-cache-info"] = "StoreDir: /srv/store\n"
	u = testUpstreams(t, file, r.client, guixServer, nixServer, second)
	if err := u.learn(t.Context()); !errors.Is(err, ErrConflict) {
		t.Errorf("%v", err)
	}
	if f := u.face(Guix); len(f.servers) != 1 || f.servers[0].String() != guixServer {
		t.Errorf("servers %v", f.servers)
	}
	if _, err := New(t.Context(), r.dir, r.store, r.transfers, r.client, servers(t, guixServer, second), r.o); !errors.Is(err, ErrConflict) {
		t.Errorf("a node starts: %v", err)
	}
	// A server that has changed its folder since it was kept.
	r.client.files[second+"/nix-cache-info"] = "StoreDir: /gnu/store\n"
	u = testUpstreams(t, file, r.client, guixServer, second)
	if err := u.learn(t.Context()); err != nil || len(u.face(Guix).servers) != 2 {
		t.Errorf("%v, %+v", err, u.face(Guix))
	}
	// Damage is no reason not to start.
	for _, text := range []string{"", "{", `[{"url":"` + guixServer + `","store_dir":"../x"}]`, `[{"url":1}]`} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		u := testUpstreams(t, file, r.client, guixServer)
		if dir, _ := u.known(u.servers[0]); dir != "" {
			t.Errorf("%q: known as %q", text, dir)
		}
	}
	// Nor is it one that nothing can be kept, as on a full disk.
	u = testUpstreams(t, filepath.Join(r.dir, "none", "upstreams.json"), r.client, guixServer)
	if err := u.start(t.Context()); err != nil || u.root().storeDir != "/gnu/store" {
		t.Errorf("%v, %+v", err, u.root())
	}
}

// TestLearnLater: an upstream that was down is asked again until it answers.
func TestLearnLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.client.down[nixServer] = true
		u := testUpstreams(t, filepath.Join(r.dir, "u"), r.client, nixServer)
		if err := u.learn(t.Context()); err != nil || u.root() != nil {
			t.Fatalf("%v, %+v", err, u.root())
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan struct{})
		go func() {
			u.run(ctx)
			close(ended)
		}()
		time.Sleep(time.Hour)
		if n := r.client.count(nixServer + "/nix-cache-info"); n < 8 || n > 15 {
			t.Errorf("asked %d times in an hour", n)
		}
		r.client.mu.Lock()
		delete(r.client.down, nixServer)
		r.client.mu.Unlock()
		<-ended
		if f := u.root(); f == nil || f.kind != Nix {
			t.Errorf("root is %+v", f)
		}
	})
}

// TestLearnAfterStart: who was asked in vain at the start is not asked, nor
// complained of, again at once.
func TestLearnAfterStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.client.down[nixServer] = true
		u := testUpstreams(t, filepath.Join(r.dir, "u"), r.client, nixServer)
		if err := u.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			u.run(ctx)
			close(ended)
		}()
		time.Sleep(againFirst - 1)
		synctest.Wait()
		if n := r.client.count(nixServer + "/nix-cache-info"); n != 1 {
			t.Errorf("asked %d times", n)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if n := r.client.count(nixServer + "/nix-cache-info"); n != 2 {
			t.Errorf("asked %d times after %v", n, againFirst)
		}
		cancel()
		<-ended
	})
}

// TestStartsAtOnce: a node that knew its upstreams before does not wait for them,
// which may be why it is started again.
func TestStartsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start(guixServer)
		start := time.Now()
		n, err := New(t.Context(), r.dir, r.store, r.transfers, hung{r.client, guixServer}, servers(t, guixServer), r.o)
		if err != nil {
			t.Fatal(err)
		}
		r.node = n
		r.want(r.get("", "GET", "/nix-cache-info"), http.StatusOK)
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %v", took)
		}
		if n, err = New(t.Context(), t.TempDir(), r.store, r.transfers, hung{r.client, guixServer}, servers(t, guixServer), r.o); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != askTime || n.upstreams.root() != nil {
			t.Errorf("a new node waited %v, and serves %+v", took, n.upstreams.root())
		}
	})
}

func TestParseInfo(t *testing.T) {
	for _, c := range []struct {
		text, dir string
		ok        bool
	}{
		{"StoreDir: /gnu/store\n", "/gnu/store", true},
		{"WantMassQuery: 1\nStoreDir: /nix/store", "/nix/store", true},
		{"", "", false}, {"StoreDir: gnu\n", "", false}, {"StoreDir: /\n", "", false}, {"StoreDir: /a/../b\n", "", false},
		{"StoreDir: /a\nStoreDir: /b\n", "", false}, {"<html>", "", false},
	} {
		if dir, err := parseInfo(c.text); (err == nil) != c.ok || c.ok && dir != c.dir {
			t.Errorf("%q: %q, %v", c.text, dir, err)
		}
	}
	for dir, want := range map[string]Kind{"/gnu/store": Guix, "/nix/store": Nix, "/home/u/nix/store": Nix, "/srv/nixos/store": Guix} {
		if got := kindOf(dir); got != want {
			t.Errorf("%s is %s", dir, got)
		}
	}
}

func FuzzParseKnown(f *testing.F) {
	for _, s := range []string{"[]", `[{"url":"http://a","store_dir":"/gnu/store"}]`, `[{}]`, "null", `[{"store_dir":"/"}]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseKnown([]byte(text))
		if err != nil {
			return
		}
		for _, k := range list {
			if err := checkStoreDir(k.StoreDir); err != nil {
				t.Fatal(err)
			}
		}
	})
}
