package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/keep"
	"ersatz/narinfo"
)

func TestFaces(t *testing.T) {
	for _, c := range []struct {
		name          string
		servers       []string
		root, nix     string // StoreDir
		rootNo, nixNo int    // status, if there is none
	}{
		{name: "both", servers: []string{nixServer, guixServer}, root: "/gnu/store", nix: "/nix/store"},
		{name: "Guix", servers: []string{guixServer}, root: "/gnu/store", nix: "/nix/store"},
		{name: "Nix", servers: []string{nixServer}, root: "/nix/store", nix: "/nix/store"},
		{name: "none", root: "/gnu/store", nix: "/nix/store"},
		{name: "down", servers: []string{"http://down.example"}, rootNo: 503, nixNo: 503},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.start(c.servers...)
			for path, want := range map[string]string{"/nix-cache-info": c.root, "/nix/nix-cache-info": c.nix} {
				if want == "" {
					continue
				}
				text := r.want(r.get("", "GET", path), http.StatusOK)
				if text != "StoreDir: "+want+"\nWantMassQuery: 1\nPriority: 10\n" {
					t.Errorf("%s is %q", path, text)
				}
			}
			if c.rootNo > 0 {
				r.want(r.get("", "GET", "/nix-cache-info"), c.rootNo)
				r.want(r.get("", "GET", "/nix/nix-cache-info"), c.nixNo)
			}
		})
	}
}

func TestNarinfoAndNar(t *testing.T) {
	r := newRig(t)
	r.client.until = time.Now().Add(time.Hour)
	it := makeItem(t, guixItem, "the nar", true, "")
	nix := makeItem(t, nixItem, "another nar", false, "Sig: k:x\n")
	r.publish(guixServer, it)
	r.publish(nixServer, nix)
	r.start(guixServer, nixServer)
	w := r.get("", "GET", "/"+it.path.Hash+".narinfo")
	text := r.want(w, http.StatusOK)
	if age := w.Header().Get("Cache-Control"); age != "max-age=3599" && age != "max-age=3600" {
		t.Errorf("Cache-Control %q", age)
	}
	if sets := r.transfers.sets; len(sets) != 1 || len(sets[0]) != 1 || sets[0][0].Path != it.path || sets[0][0].Kind != Guix {
		t.Errorf("what may be asked for soon: %+v", sets)
	}
	n, err := narinfo.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.VerifyGuix(guixsig.ACL{}.Add(testKey(t, 1).Public())); err != nil {
		t.Error(err)
	}
	if len(n.Nars) != 1 || n.Nars[0].FileSize != 7 {
		t.Fatalf("nars %+v", n.Nars)
	}
	if got := r.want(r.get("", "GET", "/"+n.Nars[0].URL), http.StatusOK); got != it.nar {
		t.Errorf("nar %q", got)
	}
	if got := r.get("", "HEAD", "/"+n.Nars[0].URL); got.Code != 200 || got.Header().Get("Content-Length") != "7" || got.Body.Len() > 0 {
		t.Errorf("HEAD: %d, %v", got.Code, got.Header())
	}
	if len(r.transfers.wants) != 1 || r.transfers.wants[0].Kind != Guix || len(r.transfers.wants[0].Choice.Builds) != 1 {
		t.Errorf("fetched %+v", r.transfers.wants)
	}
	if got := r.want(r.get("", "GET", "/nix/nar/"+nix.path.Base()), http.StatusOK); got != nix.nar {
		t.Errorf("nar %q", got)
	}
	if got := r.get("", "HEAD", "/nix/"+nix.path.Hash+".narinfo"); got.Code != 200 || got.Body.Len() > 0 {
		t.Errorf("HEAD: %d", got.Code)
	}
	for _, path := range []string{
		"/", "/x", "/nar", "/nar/", "/nar/x", "/nar/zstd/" + it.path.Base(), "/nar/" + it.path.Base() + "x", "/x.narinfo", "/.narinfo",
		"/" + strings.Repeat("e", 32) + ".narinfo", "/" + strings.Repeat("0", 32) + ".narinfo", "/nix/nar/x", "/nix/healthz",
	} {
		r.want(r.get("", "GET", path), http.StatusNotFound)
	}
	for _, path := range []string{"/..", "/nar/%2e%2e", "/nar/a%2fb", "/%00"} {
		r.want(r.get("", "GET", path), http.StatusBadRequest)
	}
	r.want(r.get("", "GET", "/"+strings.Repeat("x", 5000)), http.StatusRequestURITooLong)
	r.want(r.get("", "PUT", "/nix-cache-info"), http.StatusMethodNotAllowed)
	if got := r.want(r.get("", "GET", "/healthz"), http.StatusOK); got != "ok\n" {
		t.Errorf("healthz %q", got)
	}
}

// TestUnavailable holds the table of docs/node.md, "The loopback server".
func TestUnavailable(t *testing.T) {
	const nobody, second = "0000000000000000000000000000000a", "http://second.example"
	r := newRig(t)
	r.client.files[second+"/nix-cache-info"] = "StoreDir: /gnu/store\n"
	it, nix := makeItem(t, guixItem, "nar", true, ""), makeItem(t, nixItem, "nar", false, "")
	r.publish(guixServer, it)
	r.publish(nixServer, nix)
	r.client.until = time.Now().Add(90 * time.Second)
	r.start(guixServer, second, nixServer)
	expect := func(path string, status int, age string) {
		t.Helper()
		w := r.get("", "GET", path)
		if w.Code != status || !strings.HasPrefix(w.Header().Get("Cache-Control"), age) || age == "" && w.Header().Get("Cache-Control") != "" {
			t.Errorf("%s: %d %q, want %d %q; %s", path, w.Code, w.Header().Get("Cache-Control"), status, age, w.Body)
		}
	}
	expect("/"+nobody+".narinfo", 404, "max-age=8")
	r.client.down[second] = true
	expect("/"+nobody+".narinfo", 404, "max-age=60")
	r.client.down[guixServer], r.client.down[nixServer] = true, true
	expect("/"+nobody+".narinfo", 503, "")
	expect("/"+it.path.Hash+".narinfo", 503, "")
	expect("/nix/"+nix.path.Hash+".narinfo", 503, "")
	expect("/nar/"+it.path.Base(), 503, "")
	expect("/nix/nar/"+nix.path.Base(), 503, "")
	clear(r.client.down)
	for _, err := range []error{nil, errors.New("all sources failed")} {
		clear(r.transfers.nars)
		r.transfers.err = err
		expect("/nar/"+it.path.Base(), 503, "")
		expect("/nix/nar/"+nix.path.Base(), 503, "")
	}
	if w := r.get("", "GET", "/nix/nar/"+nix.path.Base()); w.Header().Get("Content-Length") == "3" || w.Header().Get("Retry-After") == "" {
		t.Errorf("header of a refusal: %v", w.Header())
	}
}

// unreadable is a store that cannot be read at the moment.
type unreadable struct {
	fakeStore
	err error
}

func (s unreadable) Get(string) (keep.Item, error) { return keep.Item{}, s.err }

// TestUnreadable: what the node cannot read just now is not said to be nowhere, to
// nobody.
func TestUnreadable(t *testing.T) {
	const neighbour = "192.168.1.2:1"
	r := newRig(t)
	it := makeItem(t, guixItem, "nar", true, "")
	r.o.Share, r.o.ShareKeys.Guix = ShareLAN, r.o.ShareKeys.Guix.Add(testKey(t, 1).Public())
	r.keep(guixServer, it)
	r.start(guixServer)
	for _, c := range []struct {
		err    error
		local  int // no upstream has it
		shared int
	}{
		{keep.ErrNone, 404, 404},
		{syscall.EMFILE, 503, 503},
		{fmt.Errorf("kept.sqlite: %w", context.Canceled), 503, 503},
	} {
		r.node.store = unreadable{r.store, c.err}
		for from, want := range map[string]int{"": c.local, neighbour: c.shared} {
			for _, path := range []string{"/" + it.path.Hash + ".narinfo", "/nar/" + it.path.Base()} {
				if w := r.get(from, "GET", path); w.Code != want || want == 503 && w.Header().Get("Retry-After") == "" {
					t.Errorf("%v: %q gets %d for %s, %v", c.err, from, w.Code, path, w.Header())
				}
			}
		}
	}
	r.node.store = r.store
	clear(r.transfers.nars)
	r.transfers.err = syscall.EMFILE
	if w := r.get(neighbour, "GET", "/nar/"+it.path.Base()); w.Code != 503 {
		t.Errorf("a nar that cannot be read: %d", w.Code)
	}
}

// TestKept serves what is kept with every upstream gone, and asks none.
func TestKept(t *testing.T) {
	r := newRig(t)
	it := makeItem(t, guixItem, "nar", true, "")
	r.keep(guixServer, it)
	r.start(guixServer)
	before := len(r.client.asked)
	r.client.down[guixServer] = true
	w := r.get("", "GET", "/"+it.path.Hash+".narinfo")
	text := r.want(w, http.StatusOK)
	if !strings.Contains(text, "ERISHint: urn:eris:") || w.Header().Get("Cache-Control") != "max-age=3600" {
		t.Errorf("%v\n%s", w.Header(), text)
	}
	if got := r.want(r.get("", "GET", "/nar/"+it.path.Base()), http.StatusOK); got != "nar" {
		t.Errorf("nar %q", got)
	}
	if len(r.client.asked) > before || len(r.transfers.sets) > 0 {
		t.Errorf("asked for %q, fetched ahead %+v", r.client.asked[before:], r.transfers.sets)
	}
	r.want(r.get("", "GET", "/nix/"+it.path.Hash+".narinfo"), http.StatusNotFound)
	// A node that starts with its upstream down knows its kind.
	again := newRig(t)
	again.dir, again.store, again.transfers = r.dir, r.store, r.transfers
	again.client.down[guixServer] = true
	again.start(guixServer)
	again.want(again.get("", "GET", "/"+it.path.Hash+".narinfo"), http.StatusOK)
	if s := again.node.upstreams.status(); s[0].Answered || s[0].Kind != "guix" {
		t.Errorf("status %+v", s)
	}
}

// TestKeys: with keys, only what one of them has signed is served, kept or not.
func TestKeys(t *testing.T) {
	var keys Keys
	r := newRig(t)
	r.o.Keys = func() (Keys, error) { return keys, nil }
	unsigned := makeItem(t, "/gnu/store/00000000000000000000000000000001-a", "nar", false, "")
	signed := makeItem(t, "/gnu/store/00000000000000000000000000000002-a", "nar", true, "")
	kept := makeItem(t, "/gnu/store/00000000000000000000000000000003-a", "nar", true, "")
	r.publish(guixServer, unsigned)
	r.publish(guixServer, signed)
	r.keep(guixServer, kept)
	r.start(guixServer)
	for _, it := range []testItem{unsigned, signed, kept} {
		r.want(r.get("", "GET", "/"+it.path.Hash+".narinfo"), http.StatusNotFound)
		r.want(r.get("", "GET", "/nar/"+it.path.Base()), http.StatusNotFound)
	}
	keys.Guix = keys.Guix.Add(testKey(t, 1).Public())
	for _, it := range []testItem{signed, kept} {
		r.want(r.get("", "GET", "/"+it.path.Hash+".narinfo"), http.StatusOK)
	}
	r.want(r.get("", "GET", "/"+unsigned.path.Hash+".narinfo"), http.StatusNotFound)
}

// TestSignedFirst: where all narinfos count, one that is signed is shown before
// one that is not.
func TestSignedFirst(t *testing.T) {
	const second = "http://second.example"
	r := newRig(t)
	r.client.files[second+"/nix-cache-info"] = "StoreDir: /gnu/store\n"
	r.publish(guixServer, makeItem(t, guixItem, "forged", false, ""))
	it := makeItem(t, guixItem, "nar", true, "")
	r.publish(second, it)
	r.start(guixServer, second)
	if text := r.want(r.get("", "GET", "/"+it.path.Hash+".narinfo"), http.StatusOK); !strings.Contains(text, "Signature: ") {
		t.Error(text)
	}
}

// TestHostileNarinfos: what is no narinfo of the item does not go out.
func TestHostileNarinfos(t *testing.T) {
	it := makeItem(t, guixItem, "nar", true, "")
	for name, text := range map[string]string{
		"no narinfo":    "<html>",
		"another path":  strings.ReplaceAll(it.text, "StorePath: /gnu/store/bbbb", "StorePath: /gnu/store/aaaa"),
		"another store": strings.ReplaceAll(it.text, "StorePath: /gnu/", "StorePath: /nix/"),
		"no size":       "StorePath: " + guixItem + "\nNarHash: " + someHash + "\nReferences: \n",
		"huge size":     "StorePath: " + guixItem + "\nNarHash: " + someHash + "\nNarSize: 18446744073709551615\nReferences: \n",
		"size 0":        "StorePath: " + guixItem + "\nNarHash: " + someHash + "\nNarSize: 0\nReferences: \n",
	} {
		r := newRig(t)
		r.publish(guixServer, it)
		r.client.files[guixServer+"/"+it.path.Hash+".narinfo"] = text
		r.start(guixServer)
		if w := r.get("", "GET", "/"+it.path.Hash+".narinfo"); w.Code != 404 {
			t.Errorf("%s: %d\n%s", name, w.Code, w.Body)
		}
		r.want(r.get("", "GET", "/nar/"+it.path.Base()), http.StatusNotFound)
		if len(r.transfers.wants) > 0 {
			t.Errorf("%s: fetched", name)
		}
	}
}

// TestCut: a nar that does not come whole ends with the connection.
func TestCut(t *testing.T) {
	r := newRig(t)
	it := makeItem(t, guixItem, strings.Repeat("nar", 100_000), true, "")
	r.publish(guixServer, it)
	r.transfers.cut[it.path.Base()] = true
	r.start(guixServer)
	server := httptest.NewServer(r.node.Web())
	defer server.Close()
	res, err := server.Client().Get(server.URL + "/nar/" + it.path.Base())
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || res.ContentLength != 300_000 || len(got) > 150_000 {
		t.Errorf("%d of %d bytes, %v", len(got), res.ContentLength, err)
	}
}
