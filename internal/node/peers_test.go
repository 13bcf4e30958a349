package node

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/upstream"
)

const peerServer = "http://peer.example"

// startWithPeers starts a node with a Guix upstream and a peer.
func (r *rig) startWithPeers() {
	r.t.Helper()
	sv, err := upstream.ParsePeer(peerServer)
	if err != nil {
		r.t.Fatal(err)
	}
	r.o.PeerServers = func() []*upstream.Server { return []*upstream.Server{sv} }
	r.start(guixServer, nixServer)
}

// trust has only what the key number 1 has signed count.
func (r *rig) trust() {
	keys := Keys{Guix: guixsig.ACL{}.Add(testKey(r.t, 1).Public())}
	r.o.Keys = func() (Keys, error) { return keys, nil }
}

// TestPeersAreAsked: for what no upstream has, or no upstream can say, or of
// which nothing counts that they say.
func TestPeersAreAsked(t *testing.T) {
	it := makeItem(t, guixItem, "the nar", true, "")
	unsigned := makeItem(t, guixItem, "another nar", false, "")
	for name, prepare := range map[string]func(r *rig){
		"absent":    func(*rig) {},
		"no answer": func(r *rig) { r.client.down[guixServer] = true },
		"withheld":  func(r *rig) { r.publish(guixServer, unsigned) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.trust()
			r.publish(peerServer, it)
			r.startWithPeers()
			prepare(r)
			r.transfers.nars[it.path.Base()] = it.nar
			text := r.want(r.get("", "GET", "/"+it.path.Hash+".narinfo"), http.StatusOK)
			if !strings.HasPrefix(text, it.text[:strings.Index(it.text, "URL:")]) {
				t.Errorf("narinfo\n%s", text)
			}
			if got := r.want(r.get("", "GET", "/nar/"+it.path.Base()), http.StatusOK); got != it.nar {
				t.Errorf("nar %q", got)
			}
			offers := r.transfers.wants[0].Choice.Builds[0].Nars
			if len(offers) != 1 || offers[0].Server.String() != peerServer {
				t.Errorf("offers %+v", offers)
			}
		})
	}
}

// TestPeersAreNotAsked: for what is kept, what an upstream has, what others ask
// for, and what another node on this machine does.
func TestPeersAreNotAsked(t *testing.T) {
	const stranger = "192.168.1.9:1"
	it := makeItem(t, guixItem, "the nar", true, "")
	url := "/" + it.path.Hash + ".narinfo"
	asNode := func(r *rig) *httptest.ResponseRecorder {
		req := httptest.NewRequest("GET", url, nil)
		req.RemoteAddr = "127.0.0.1:1234"
		req.Header.Set(upstream.OnlyKept, "1")
		w := httptest.NewRecorder()
		r.node.Web().ServeHTTP(w, req)
		return w
	}
	for name, c := range map[string]struct {
		prepare func(r *rig)
		ask     func(r *rig) *httptest.ResponseRecorder
		status  int
	}{
		"kept":             {func(r *rig) { r.keep(guixServer, it) }, nil, http.StatusOK},
		"at an upstream":   {func(r *rig) { r.publish(guixServer, it) }, nil, http.StatusOK},
		"by a stranger":    {nil, func(r *rig) *httptest.ResponseRecorder { return r.get(stranger, "GET", url) }, http.StatusNotFound},
		"by a node":        {nil, asNode, http.StatusNotFound},
		"kept, by a node":  {func(r *rig) { r.keep(guixServer, it) }, asNode, http.StatusOK},
		"no name of store": {nil, func(r *rig) *httptest.ResponseRecorder { return r.get("", "GET", "/x.narinfo") }, http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.trust()
			r.o.Share, r.o.ShareKeys = ShareLAN, Keys{Guix: guixsig.ACL{}.Add(testKey(t, 1).Public())}
			r.publish(peerServer, it)
			r.startWithPeers()
			if c.prepare != nil {
				c.prepare(r)
			}
			before := len(r.client.asked)
			w := (*httptest.ResponseRecorder)(nil)
			if c.ask == nil {
				w = r.get("", "GET", url)
			} else {
				w = c.ask(r)
			}
			r.want(w, c.status)
			if r.client.count(peerServer+url) != 0 || c.ask != nil && len(r.client.asked) != before {
				t.Errorf("asked for %v", r.client.asked[before:])
			}
		})
	}
}

// TestKeptFromPeer: what was had from a peer leads no further when it is kept.
func TestKeptFromPeer(t *testing.T) {
	for server, peer := range map[string]bool{peerServer: true, "file:///srv/cache": false} {
		it := makeItem(t, guixItem, "the nar", true, "")
		r := newRig(t)
		r.keep(server, it)
		r.start(guixServer)
		r.want(r.get("", "GET", "/nar/"+it.path.Base()), http.StatusOK)
		if sv := r.transfers.wants[0].Choice.Builds[0].Nars[0].Server; sv.String() != server || sv.IsPeer() != peer {
			t.Errorf("%s is a peer: %t", sv, sv.IsPeer())
		}
	}
}

// TestPeersSay: what a peer says counts by the rules for upstreams, and is of
// the store that was asked for.
func TestPeersSay(t *testing.T) {
	it := makeItem(t, guixItem, "the nar", true, "")
	other := makeItem(t, "/gnu/store/"+strings.Repeat("7", 32)+"-other", "another", true, "")
	elsewhere := makeItem(t, strings.Replace(guixItem, "/gnu/store", "/srv/store", 1), "the nar", true, "")
	ofNix := makeItem(t, strings.Replace(guixItem, "/gnu/store", "/nix/store", 1), "the nar", true, "")
	for name, text := range map[string]string{
		"no narinfo":      "<html>",
		"unsigned":        makeItem(t, guixItem, "the nar", false, "").text,
		"changed":         strings.Replace(it.text, "References: ", "References: x", 1),
		"another item":    other.text,
		"another store":   elsewhere.text,
		"another dialect": ofNix.text,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.trust()
			r.client.files[peerServer+"/"+it.path.Hash+".narinfo"] = text
			r.startWithPeers()
			w := r.get("", "GET", "/"+it.path.Hash+".narinfo")
			r.want(w, http.StatusNotFound)
			if len(r.transfers.sets)+len(r.transfers.wants) > 0 {
				t.Error("something is fetched")
			}
		})
	}
	r := newRig(t)
	r.client.files[peerServer+"/"+it.path.Hash+".narinfo"] = ofNix.text
	r.startWithPeers()
	r.want(r.get("", "GET", "/nix/"+it.path.Hash+".narinfo"), http.StatusOK)
}

// TestPeersAndTimes: peers do not change for how long it may be believed that
// nobody has an item, and what they have is not theirs to say for ever.
func TestPeersAndTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		it := makeItem(t, guixItem, "the nar", true, "")
		url := "/" + it.path.Hash + ".narinfo"
		for _, c := range []struct {
			name           string
			upstream, peer time.Duration
			has            bool
			want           string
		}{
			{"both say that they have none", 10 * time.Minute, 24 * time.Hour, false, "max-age=600"},
			{"the peer for less time", 10 * time.Minute, time.Second, false, "max-age=600"},
			{"the peer has it", 10 * time.Minute, 24 * time.Hour, true, "max-age=3600"},
			{"and may have it for less", 10 * time.Minute, 20 * time.Minute, true, "max-age=1200"},
		} {
			r := newRig(t)
			r.client.lives = map[string]time.Time{guixServer: time.Now().Add(c.upstream), peerServer: time.Now().Add(c.peer)}
			status := http.StatusNotFound
			if c.has {
				r.publish(peerServer, it)
				status = http.StatusOK
			}
			r.startWithPeers()
			w := r.get("", "GET", url)
			r.want(w, status)
			if got := w.Header().Get("Cache-Control"); got != c.want {
				t.Errorf("%s: %s, want %s", c.name, got, c.want)
			}
		}
		// Without an upstream, nobody says for how long.
		r := newRig(t)
		r.start()
		if w := r.get("", "GET", url); w.Header().Get("Cache-Control") != "max-age=60" {
			t.Errorf("without upstreams: %v", w.Header())
		}
	})
}

// hung is a client for which one server never answers.
type hung struct {
	*fakeClient
	server string
}

func (c hung) AskHash(ctx context.Context, servers []*upstream.Server, hash string) []upstream.Answer {
	if servers[0].String() != c.server {
		return c.fakeClient.AskHash(ctx, servers, hash)
	}
	<-ctx.Done()
	return []upstream.Answer{{Server: servers[0], Err: ctx.Err()}}
}

func (c hung) Open(ctx context.Context, sv *upstream.Server, ref string) (*upstream.Body, error) {
	if sv.String() != c.server {
		return c.fakeClient.Open(ctx, sv, ref)
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestPeerHangs: a client does not wait long for a peer that says nothing.
func TestPeerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startWithPeers()
		r.node.client = hung{r.client, peerServer}
		start := time.Now()
		r.want(r.get("", "GET", "/"+strings.Repeat("7", 32)+".narinfo"), http.StatusNotFound)
		if took := time.Since(start); took != peerTime {
			t.Errorf("waited for %v", took)
		}
	})
}

// TestPeersVote: what a peer has may be the vote that is missing, and the nar is
// had from either.
func TestPeersVote(t *testing.T) {
	r := votingRig(t)
	r.publish(votingServers[0], signedBy(t, 1, "nar"))
	sv, err := upstream.ParsePeer(peerServer)
	if err != nil {
		t.Fatal(err)
	}
	r.o.PeerServers = func() []*upstream.Server { return []*upstream.Server{sv} }
	r.start(votingServers...)
	r.want(r.get("", "GET", votedURL), http.StatusNotFound)
	it := signedBy(t, 2, "nar")
	r.publish(peerServer, it)
	r.want(r.get("", "GET", votedURL), http.StatusOK)
	r.want(r.get("", "GET", "/nar/"+escapeBase(it.path.Base())), http.StatusOK)
	if offers := r.transfers.wants[0].Choice.Builds[0].Nars; len(offers) != 2 {
		t.Errorf("offers %+v", offers)
	}
}
