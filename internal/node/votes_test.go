package node

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"ersatz/internal/keep"
	"ersatz/internal/nodeapi"
	"ersatz/internal/upstream"
	"ersatz/internal/votes"
	"ersatz/narinfo"
	"ersatz/nixsig"
	"ersatz/storepath"
)

// votingServers are three upstreams of Guix.
var votingServers = []string{"http://one.example", "http://two.example", "http://three.example"}

// votedURL is the narinfo of guixItem.
const votedURL = "/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2.narinfo"

// signedBy makes an item of nar whose narinfo key n signs.
func signedBy(t *testing.T, n byte, nar string) testItem {
	t.Helper()
	it := makeItem(t, guixItem, nar, false, "")
	body, rest, _ := strings.Cut(it.text, "URL: ")
	it.text = sign(t, body, testKey(t, n)) + "URL: " + rest
	return it
}

// votingRig has keys 1 to 3 of which two have to agree.
func votingRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	for _, sv := range votingServers {
		r.client.files[sv+"/nix-cache-info"] = "StoreDir: /gnu/store\n"
	}
	text := "require 2 of\n"
	for n := range byte(3) {
		text += testKey(t, n+1).Public().String() + "\n"
	}
	r.o.Votes = func() (votes.Policy, error) { return votes.Parse([]byte(text)) }
	return r
}

// TestVotes withholds narinfos, and nars, that lack votes, and shows one that a
// voter has signed.
func TestVotes(t *testing.T) {
	bare := signedBy(t, 3, "nar")
	bare.text, _, _ = strings.Cut(bare.text, "URL: ")
	for name, c := range map[string]struct {
		items  []testItem // of the servers
		down   string
		status int
		shown  byte // whose narinfo
	}{
		"two agree":             {[]testItem{signedBy(t, 1, "nar"), signedBy(t, 2, "nar")}, "", 200, 1},
		"with the third down":   {[]testItem{signedBy(t, 1, "nar"), signedBy(t, 2, "nar")}, votingServers[2], 200, 1},
		"one":                   {[]testItem{signedBy(t, 1, "nar")}, "", 404, 0},
		"with the second down":  {[]testItem{signedBy(t, 1, "nar"), signedBy(t, 2, "nar")}, votingServers[1], 404, 0},
		"they differ":           {[]testItem{signedBy(t, 1, "nar"), signedBy(t, 2, "another")}, "", 404, 0},
		"the others agree":      {[]testItem{signedBy(t, 1, "another"), signedBy(t, 2, "nar"), bare}, "", 200, 2},
		"a stranger is first":   {[]testItem{signedBy(t, 9, "nar"), signedBy(t, 3, "nar"), signedBy(t, 2, "nar")}, "", 200, 3},
		"strangers":             {[]testItem{signedBy(t, 9, "nar"), signedBy(t, 8, "nar")}, "", 404, 0},
		"unsigned":              {[]testItem{makeItem(t, guixItem, "nar", false, ""), signedBy(t, 1, "nar")}, "", 404, 0},
		"what is shown is bare": {[]testItem{bare, signedBy(t, 2, "nar")}, "", 200, 3},
	} {
		t.Run(name, func(t *testing.T) {
			r := votingRig(t)
			for i := len(c.items) - 1; i >= 0; i-- {
				r.publish(votingServers[i], c.items[i])
			}
			r.transfers.nars[c.items[0].path.Base()] = "nar"
			r.client.down[c.down] = true
			r.start(votingServers...)
			w := r.get("", "GET", votedURL)
			text := r.want(w, c.status)
			nar := r.get("", "GET", "/nar/"+escapeBase(c.items[0].path.Base()))
			if nar.Code != c.status {
				t.Errorf("nar: status %d, want %d", nar.Code, c.status)
			}
			if c.status == http.StatusNotFound {
				if got := w.Header().Get("Cache-Control"); got != "max-age=60" {
					t.Errorf("Cache-Control %q", got)
				}
				return
			}
			if !strings.Contains(text, sign(t, strings.Split(text, "Signature: ")[0], testKey(t, c.shown))) || !strings.Contains(text, "\nURL: nar/") {
				t.Errorf("not what key %d has signed, or without our URL:\n%s", c.shown, text)
			}
		})
	}
}

// TestVotesOfKept: what is kept is one vote; the upstreams' caches have the
// others, and without them it is withheld.
func TestVotesOfKept(t *testing.T) {
	r := votingRig(t)
	r.keep(votingServers[0], signedBy(t, 1, "nar"))
	r.publish(votingServers[1], signedBy(t, 2, "nar"))
	r.start(votingServers...)
	if text := r.want(r.get("", "GET", votedURL), http.StatusOK); !strings.Contains(text, "ERISHint: ") {
		t.Errorf("not what is kept:\n%s", text)
	}
	r.client.down[votingServers[1]] = true
	r.want(r.get("", "GET", votedURL), http.StatusNotFound)
	// Others who are served are not this machine's clients and judge themselves.
	r.o.Share, r.o.ShareKeys.Guix = ShareAll, r.o.ShareKeys.Guix.Add(testKey(t, 1).Public())
	r.start(votingServers...)
	r.want(r.get("10.1.2.3:4", "GET", votedURL), http.StatusOK)
}

// TestVotesOfPeers: a narinfo that a peer has is a vote like any other.
func TestVotesOfPeers(t *testing.T) {
	const peer = "http://peer.example"
	r := votingRig(t)
	r.publish(votingServers[0], signedBy(t, 1, "nar"))
	r.publish(peer, signedBy(t, 1, "nar"))
	r.o.PeerServers = func() []*upstream.Server { return servers(t, peer) }
	r.start(votingServers...)
	r.want(r.get("", "GET", votedURL), http.StatusNotFound)
	r.publish(peer, signedBy(t, 2, "nar"))
	r.want(r.get("", "GET", votedURL), http.StatusOK)
}

// TestVotesAndKeys: with both, a voter has to be among the keys, and a policy
// that cannot be read has nothing count.
func TestVotesAndKeys(t *testing.T) {
	r := votingRig(t)
	var keys Keys
	r.o.Keys = func() (Keys, error) { return keys, nil }
	good := r.o.Votes
	var broken error
	r.o.Votes = func() (votes.Policy, error) {
		p, err := good()
		return p, errors.Join(err, broken)
	}
	r.publish(votingServers[0], signedBy(t, 1, "nar"))
	r.publish(votingServers[1], signedBy(t, 2, "nar"))
	r.start(votingServers...)
	for _, n := range []byte{9, 1} {
		keys.Guix = keys.Guix.Add(testKey(t, n).Public())
		r.want(r.get("", "GET", votedURL), http.StatusNotFound)
	}
	keys.Guix = keys.Guix.Add(testKey(t, 2).Public())
	r.want(r.get("", "GET", votedURL), http.StatusOK)
	broken = votes.ErrMalformed
	r.want(r.get("", "GET", votedURL), http.StatusServiceUnavailable)
}

// TestVotesOfSocket: who sends narinfos has judged them.
func TestVotesOfSocket(t *testing.T) {
	r := votingRig(t)
	it := signedBy(t, 9, "nar")
	r.publish(votingServers[0], it)
	r.start(votingServers...)
	w := r.send(root, "POST", nodeapi.NarPath, body(t, narOf(it.path.String(), from(votingServers[0], it.text))))
	if got := r.want(w, http.StatusOK); got != "nar" {
		t.Errorf("nar %q", got)
	}
}

// TestVotesOfNix: Nix's keys vote with the lines Sig of one narinfo, and a
// policy of them alone needs no other keys.
func TestVotesOfNix(t *testing.T) {
	p, err := storepath.Parse(nixItem)
	if err != nil {
		t.Fatal(err)
	}
	f := narinfo.Fields{StorePath: p, NarHash: sha256.Sum256([]byte("nar")), NarSize: 3}
	policy := "require 2 of\n"
	texts := []string{string(f.Body())} // with no Sig, one and two
	for n := range 2 {
		key, err := nixsig.GenerateKey(fmt.Sprintf("k-%d", n), bytes.NewReader(bytes.Repeat([]byte{byte(n)}, 32)))
		if err != nil {
			t.Fatal(err)
		}
		policy += key.Public().String() + "\n"
		texts = append(texts, texts[n]+string(f.SignNix(key)))
	}
	for n, status := range []int{404, 404, 200} {
		r := newRig(t)
		r.o.Votes = func() (votes.Policy, error) { return votes.Parse([]byte(policy)) }
		r.publish(nixServer, testItem{p, "nar", texts[n]})
		r.start(nixServer)
		r.want(r.get("", "GET", "/nix/"+p.Hash+".narinfo"), status)
	}
}

// onceUnreadable is a store whose first item cannot be read just now.
type onceUnreadable struct {
	fakeStore
	asked *int
}

func (s onceUnreadable) Get(hash string) (keep.Item, error) {
	if *s.asked++; *s.asked == 1 {
		return keep.Item{}, syscall.EMFILE
	}
	return s.fakeStore.Get(hash)
}

// TestVoteUnreadable: a vote that cannot be read just now is not one that is lacking.
func TestVoteUnreadable(t *testing.T) {
	r := votingRig(t)
	r.keep(votingServers[0], signedBy(t, 1, "nar"))
	r.publish(votingServers[1], signedBy(t, 2, "nar"))
	r.start(votingServers...)
	r.node.store = onceUnreadable{r.store, new(int)}
	r.want(r.get("", "GET", votedURL), http.StatusServiceUnavailable)
	r.want(r.get("", "GET", votedURL), http.StatusOK)
}
