package bake

import (
	"bytes"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/block/narindex"
	"ersatz/internal/compress"
	"ersatz/internal/storedb"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
)

const ttl = 10 * 24 * time.Hour

func TestExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		live := s.add("live", nil, random(1, 50<<10))
		old := s.add("old", nil, random(2, 50<<10))
		asked := s.add("asked", nil, random(3, 50<<10))
		twin := s.add("twin", nil, random(2, 50<<10)) // same content as old
		o := Options{TTL: ttl}
		s.bake(o, live.Path, old.Path, asked.Path, twin.Path)
		_, signed := s.narinfo(old.Path.Hash)
		rc, err := eris.ParseURN(signed.ERIS)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []storedb.Info{old, asked, twin} {
			s.collect(i.Path)
		}
		c := s.open(o)
		s.now = s.now.Add(ttl - time.Hour)
		if err := c.Expire(t.Context()); err != nil {
			t.Error(err)
		}
		for _, i := range []storedb.Info{live, old, asked, twin} {
			s.check(c, i) // also those that the store lacks
		}
		c.Touch(asked.Path.Hash)
		c.Touch(twin.Path.Hash)
		s.now = s.now.Add(2 * time.Hour)
		s.run(c, func() { <-time.After(expireFirst) }) // Run expires, too
		if c.has(old.Path.Hash) {
			t.Error("an old entry is left")
		}
		for _, i := range []storedb.Info{live, asked, twin} {
			s.check(c, i)
		}
		if _, err := c.Blocks().Get(t.Context(), rc.Root); err != nil {
			t.Errorf("a block that another item has: %v", err)
		}
		s.now = s.now.Add(ttl + time.Hour)
		if err := c.Expire(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := c.Blocks().Get(t.Context(), rc.Root); !errors.Is(err, eris.ErrNotFound) {
			t.Errorf("a block that no item has: %v", err)
		}
		s.close(c)
		want := []string{live.Path.Hash + suffix, narindex.TreeDir + "/" + live.Path.Base(), "nar/zstd/" + live.Path.Base()}
		if got := s.names(); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("left %q, want %q", got, want)
		}
		if faults := s.fsck(FsckOptions{}); faults != "" {
			t.Errorf("fsck:\n%s", faults)
		}
	})
}

// A store that cannot be asked lets nothing expire.
func TestExpireWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		info := s.add("item", nil, []byte("x"))
		s.bake(Options{}, info.Path)
		c := s.open(Options{TTL: ttl})
		defer s.close(c)
		s.now = s.now.Add(2 * ttl)
		if err := s.db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := c.Expire(t.Context()); err == nil {
			t.Error("no error")
		}
		if !c.has(info.Path.Hash) {
			t.Error("expired")
		}
	})
}

// What a crash has left goes when it is a day old, and not what is being made.
func TestExpireLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.add("a", nil, random(1, 50<<10))
		b := s.add("b", nil, random(2, 50<<10))
		s.bake(Options{}, a.Path, b.Path)
		c := s.open(Options{})
		defer s.close(c)
		for _, i := range []storedb.Info{a, b} {
			if err := os.Remove(filepath.Join(s.cache, i.Path.Hash+suffix)); err != nil {
				t.Fatal(err)
			}
		}
		stray := "nar/gzip/" + strings.Repeat("1", 32) + "-x"
		if err := os.WriteFile(c.path(stray), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if c.claim(a.Path.Hash) != nil {
			t.Fatal("claimed by somebody")
		}
		for _, age := range []time.Duration{0, strayAge / 2} {
			s.now = s.now.Add(age)
			if err := c.Expire(t.Context()); err != nil {
				t.Error(err)
			}
			if got := s.names(); len(got) != 3 { // nar and tree of a; stray
				t.Errorf("left %q", got)
			}
		}
		c.release(a.Path.Hash)
		s.now = s.now.Add(2 * strayAge)
		if err := c.Expire(t.Context()); err != nil {
			t.Error(err)
		}
		if got := s.names(); got != nil {
			t.Errorf("left %q", got)
		}
	})
}

// kubo is a daemon of which only the outside is real.
type kubo struct {
	mu     sync.Mutex
	fail   func(command string) error // asked before each command
	pinned map[string]bool
	gone   int // blocks removed
	bytes  int // of the last import
	sent   int // bytes of the last command, done or not
	calls  []string
}

func (k *kubo) client(t *testing.T) *ipfs.Client {
	c, err := ipfs.New("http://kubo.invalid", &http.Client{Transport: k})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (k *kubo) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	var err error
	if r.Body != nil {
		defer r.Body.Close()
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	command := strings.TrimPrefix(r.URL.Path, "/api/v0/")
	k.calls = append(k.calls, command)
	k.sent = len(body)
	if k.fail != nil {
		if err := k.fail(command); err != nil {
			return nil, err
		}
	}
	args := r.URL.Query()["arg"]
	switch command {
	case "dag/import":
		// The root in the CAR's header: a link in DAG-CBOR.
		_, rest, ok := bytes.Cut(body, []byte{0xd8, 42, 0x58, 39, 0})
		if !ok {
			return nil, errors.New("no CAR")
		}
		root := "b" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(rest[:38]))
		k.pinned[root] = true
		k.bytes = len(body)
		return answer(200, map[string]any{"Root": map[string]any{"Cid": map[string]string{"/": root}}}), nil
	case "pin/rm":
		if !k.pinned[args[0]] {
			return answer(500, map[string]string{"Message": "not pinned or pinned indirectly"}), nil
		}
		delete(k.pinned, args[0])
		return answer(200, map[string][]string{"Pins": args}), nil
	case "block/rm":
		k.gone += len(args)
		return answer(200, nil), nil
	case "routing/provide":
		return answer(500, map[string]string{"Message": "no peers"}), nil
	}
	return answer(404, nil), nil
}

func answer(status int, v any) *http.Response {
	var b bytes.Buffer
	if v != nil {
		if err := json.NewEncoder(&b).Encode(v); err != nil {
			panic(err) // maps of strings
		}
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(&b)}
}

// Putting goes on after the daemon was away, and after a restart of ours;
// removing too.
func TestIPFS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.add("a", nil, random(1, 300<<10))
		b := s.add("b", nil, random(2, 50<<10))
		k := &kubo{pinned: map[string]bool{}}
		down := func(command string) error { return syscall.ECONNREFUSED }
		up := func(command string) error { return nil }
		set := func(fail func(string) error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.fail = fail
		}
		o := Options{IPFS: k.client(t), TTL: ttl}

		// Down, then up in the same process.
		set(down)
		c := s.open(o)
		s.run(c, func() {
			if err := c.Bake(a.Path); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if !c.has(a.Path.Hash) || len(k.pinned) != 0 {
				t.Error("not baked, or pinned by a daemon that is down")
			}
			if got := fmt.Sprint(k.calls); got != "[dag/import]" {
				t.Errorf("asked at once again: %s", got)
			}
			set(up)
			<-time.After(firstPutDelay + time.Second)
			synctest.Wait()
			if len(k.pinned) != 1 || k.bytes < 300<<10 {
				t.Errorf("%d pins, %d bytes put", len(k.pinned), k.bytes)
			}
			// Down again: b waits for the next process.
			set(down)
			if err := c.Bake(b.Path); err != nil {
				t.Error(err)
			}
		})
		if got := c.Status(); got.Put != 1 || got.Baked != 2 {
			t.Errorf("status %+v", got)
		}
		s.close(c)
		set(up)
		c = s.open(o)
		s.run(c, func() {})
		if len(k.pinned) != 2 {
			t.Errorf("%d pins", len(k.pinned))
		}
		// Both expire while the daemon is down, and leave it later.
		s.collect(a.Path)
		s.collect(b.Path)
		set(down)
		s.now = s.now.Add(2 * ttl)
		if err := c.Expire(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("expire: %v", err)
		}
		if got := s.names(); len(got) != 2 {
			t.Errorf("left %q, want tree files", got)
		}
		if faults := s.fsck(FsckOptions{Repair: true}); faults != "" {
			t.Errorf("fsck:\n%s", faults)
		}
		set(up)
		if err := c.Expire(t.Context()); err != nil {
			t.Error(err)
		}
		if got := s.names(); got != nil || len(k.pinned) != 0 || k.gone < 10 {
			t.Errorf("left %q, %d pins; %d blocks removed", got, len(k.pinned), k.gone)
		}
		s.close(c)
	})
}

// A nar that is broken is not put, and does not keep others from it.
func TestIPFSBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		var all []storedb.Info
		for i := range 3 {
			all = append(all, s.add(fmt.Sprint("item", i), nil, random(byte(i), 100<<10)))
			s.bake(Options{}, all[i].Path)
		}
		s.spoil("nar/zstd/" + all[0].Path.Base())
		k := &kubo{pinned: map[string]bool{}}
		c := s.open(Options{IPFS: k.client(t)})
		defer s.close(c)
		s.run(c, func() {})
		if len(k.pinned) != 2 {
			t.Errorf("%d pins", len(k.pinned))
		}
		if n := strings.Count(s.log.String(), "run fsck"); n != 1 {
			t.Errorf("said %d times:\n%s", n, s.log)
		}
	})
}

// An item that the daemon refuses keeps no other from being put, and one that
// was broken is put when it is mended, by the same process.
func TestIPFSRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		var all []storedb.Info
		for i := range 3 {
			all = append(all, s.add(fmt.Sprint("item", i), nil, random(byte(i), (i+1)*100<<10)))
			s.bake(Options{}, all[i].Path)
		}
		slices.SortFunc(all, func(a, b storedb.Info) int { return strings.Compare(a.Path.Hash, b.Path.Hash) })
		s.spoil("nar/zstd/" + all[2].Path.Base())
		k := &kubo{pinned: map[string]bool{}}
		refused := 0
		k.fail = func(command string) error {
			// Which item it is, its size says.
			if over := k.sent - int(all[0].NarSize); command == "dag/import" && over > 0 && over < 90<<10 && refused < 3 {
				refused++
				return errors.New("no")
			}
			return nil
		}
		c := s.open(Options{IPFS: k.client(t)})
		defer s.close(c)
		s.run(c, func() {
			time.Sleep(firstPutDelay + time.Second)
			synctest.Wait()
			if len(k.pinned) != 1 {
				t.Errorf("%d pins beside an item that is refused", len(k.pinned))
			}
			if faults := s.fsck(FsckOptions{Repair: true}); !strings.Contains(faults, all[2].Path.Base()) {
				t.Errorf("fsck:\n%s", faults)
			}
			if err := c.Bake(all[2].Path); err != nil {
				t.Error(err)
			}
			time.Sleep(2 * expireEvery)
			synctest.Wait()
		})
		if len(k.pinned) != 3 {
			t.Errorf("%d pins in the end", len(k.pinned))
		}
	})
}

// An item that is removed while it is put leaves no pin.
func TestIPFSRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		info := s.add("item", nil, random(1, 100<<10))
		s.bake(Options{}, info.Path)
		k := &kubo{pinned: map[string]bool{}}
		c := s.open(Options{IPFS: k.client(t)})
		defer s.close(c)
		k.fail = func(command string) error {
			if command == "dag/import" {
				return c.index.Remove(t.Context(), info.Path.Hash)
			}
			return nil
		}
		s.run(c, func() {})
		if len(k.pinned) != 0 || fmt.Sprint(k.calls[0]) != "dag/import" {
			t.Errorf("%d pins after %q", len(k.pinned), k.calls)
		}
	})
}

// An item that is baked anew to other blocks takes the old ones out of IPFS.
func TestIPFSReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		info := s.add("item", nil, random(1, 100<<10))
		k := &kubo{pinned: map[string]bool{}}
		o := Options{IPFS: k.client(t)}
		s.bake(o, info.Path)
		for name := range k.pinned {
			if err := os.Remove(filepath.Join(s.cache, info.Path.Hash+suffix)); err != nil {
				t.Fatal(err)
			}
			o.Methods = []compress.Method{compress.None}
			if c := s.open(o); true {
				if _, err := c.bake(t.Context(), info.Path, func() {}); err != nil {
					t.Error(err)
				}
				if k.pinned[name] {
					t.Error("the old pin is left")
				}
				s.run(c, func() {})
				s.close(c)
			}
		}
		if len(k.pinned) != 1 {
			t.Errorf("%d pins", len(k.pinned))
		}
	})
}

// With a real daemon: bake, get every block from it, expire, and see pin and
// blocks gone.
func TestKubo(t *testing.T) {
	d := kubotest.Start(t)
	s := newSite(t)
	info := s.add("item", nil, random(1, 3<<20))
	client, err := ipfs.New(d.API, nil)
	if err != nil {
		t.Fatal(err)
	}
	client.BlockTimeout = time.Second
	c := s.open(Options{IPFS: client, TTL: ttl})
	defer s.close(c)
	if _, err := c.bake(t.Context(), info.Path, func() {}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.putPass(t.Context(), "", map[string]bool{}); err != nil {
		t.Fatal(err)
	}
	item, err := c.index.Item(t.Context(), info.Path.Hash)
	if err != nil || item.Manifest == "" {
		t.Fatalf("manifest %q, %v", item.Manifest, err)
	}
	pins := func() string { return d.Run(t, "pin", "ls", "--type=recursive", "--quiet") }
	if !strings.Contains(pins(), item.Manifest) {
		t.Errorf("%s is not pinned", item.Manifest)
	}
	content, err := c.index.Open(t.Context(), info.Path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	var refs []eris.Ref
	for ref := range content.Refs() {
		refs = append(refs, ref)
	}
	size := content.ReadCap().Size
	if err := content.Close(); err != nil {
		t.Fatal(err)
	}
	has := func() int {
		var mu sync.Mutex
		got := 0
		err := client.Fetch(t.Context(), size, refs, func(i int, b []byte) error {
			mu.Lock()
			defer mu.Unlock()
			if eris.BlockRef(b) == refs[i] {
				got++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if n := has(); n != len(refs) {
		t.Errorf("%d blocks of %d come back", n, len(refs))
	}
	s.collect(info.Path)
	s.now = s.now.Add(2 * ttl)
	if err := c.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := has(); n != 0 {
		t.Errorf("%d blocks are left", n)
	}
	if strings.Contains(pins(), item.Manifest) {
		t.Errorf("%s is pinned still", item.Manifest)
	}
}
