package node

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/internal/nodeapi"
	"ersatz/internal/upstream"
)

const nearServer = "http://near.example"

// startNear starts a node with a Guix upstream, which is found on the local
// network as well, beside another server there.
func (r *rig) startNear() {
	r.t.Helper()
	r.o.NearServers = func() []*upstream.Server { return servers(r.t, guixServer, nearServer) }
	r.start(guixServer)
	r.transfers.join = r.node.Join
}

// offers returns who the nar of the last item that was asked for can be had from.
func (r *rig) offers() string {
	var list []string
	for _, o := range r.transfers.wants[len(r.transfers.wants)-1].Choice.Builds[0].Nars {
		list = append(list, o.Server.String())
	}
	return strings.Join(list, " ")
}

// TestNearServers: what is fetched from afar is looked for nearby first.
func TestNearServers(t *testing.T) {
	it := makeItem(t, guixItem, "the nar", true, "")
	ask := "/" + it.path.Hash + ".narinfo"
	for name, c := range map[string]struct {
		near string // narinfo
		want string // offers
	}{
		"has it":         {it.text, nearServer + " " + guixServer},
		"unsigned":       {makeItem(t, guixItem, "the nar", false, "").text, nearServer + " " + guixServer},
		"has another":    {makeItem(t, guixItem, "a nar", true, "").text, guixServer},
		"does not":       {"", guixServer},
		"has a page":     {"<html>", guixServer},
		"another's path": {makeItem(t, "/gnu/store/"+strings.Repeat("7", 32)+"-other", "the nar", true, "").text, guixServer},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.publish(guixServer, it)
			if c.near != "" {
				r.client.files[nearServer+ask] = c.near
			}
			r.startNear()
			r.want(r.get("", "GET", ask), http.StatusOK)
			if r.client.count(nearServer+ask) != 0 {
				t.Error("a near server is asked for what is only looked up")
			}
			if got := r.want(r.get("", "GET", "/nar/"+it.path.Base()), http.StatusOK); got != it.nar {
				t.Errorf("nar %q", got)
			}
			if got := r.offers(); got != c.want {
				t.Errorf("offers of %s, want %s", got, c.want)
			}
			w := r.send(root, "POST", nodeapi.NarPath, body(t, narOf(it.path.String(), from(guixServer, it.text))))
			if got := r.want(w, http.StatusOK); got != it.nar || r.offers() != c.want {
				t.Errorf("by the socket: %q, offers of %s", got, r.offers())
			}
			if n := r.client.count(guixServer + ask); n != 2 {
				t.Errorf("the upstream was asked %d times for 2 requests", n)
			}
		})
	}
}

// TestNearServerHangs: a nar does not wait long for a server that says nothing.
func TestNearServerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		it := makeItem(t, guixItem, "the nar", true, "")
		r := newRig(t)
		r.publish(guixServer, it)
		r.startNear()
		r.node.client = hung{r.client, nearServer}
		start := time.Now()
		r.want(r.get("", "GET", "/nar/"+it.path.Base()), http.StatusOK)
		if took := time.Since(start); took != nearTime {
			t.Errorf("waited for %v", took)
		}
	})
}
