package peers

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/fetch"
	"ersatz/internal/transport/peer"
)

func TestHave(t *testing.T) {
	whole, part := heldOf(t, false, nil), heldOf(t, true, []byte{0x80})
	a := newNode(t, map[[32]byte]*peer.Held{hashOf(0): whole, hashOf(1): part})
	b := newNode(t, map[[32]byte]*peer.Held{hashOf(1): whole})
	r := newRig(t, a.url)
	r.net.set(found(b.url))
	got := r.Have(t.Context(), [][32]byte{hashOf(2), hashOf(1), hashOf(0), hashOf(1)})
	if len(got) != 4 || len(got[0]) != 0 || len(got[1]) != 2 || len(got[2]) != 1 || len(got[3]) != 2 {
		t.Fatalf("%+v", got)
	}
	// The near one, which was found, first.
	if c := got[1]; c[0].Peer.Name() != b.url || c[0].Held.Part || c[1].Peer.Name() != a.url || !c[1].Held.Has(0) || c[1].Held.Has(1) {
		t.Errorf("%+v", c)
	}
	if n := a.requests() + b.requests(); n != 2 || a.of["[1 0 1]"] != 1 {
		t.Errorf("%d requests, %v", n, a.of)
	}
	if got := r.Have(t.Context(), nil); len(got) != 0 || a.requests() != 1 {
		t.Error("nothing is asked for")
	}
	if got := newRig(t).Have(t.Context(), hashes(3)); len(got) != 3 || got[0] != nil {
		t.Errorf("nobody has %+v", got)
	}
}

// TestHaveIsKept: what was answered is not asked again for some seconds, what
// grows for one.
func TestHaveIsKept(t *testing.T) {
	n := newNode(t, map[[32]byte]*peer.Held{hashOf(0): heldOf(t, false, nil), hashOf(1): heldOf(t, true, []byte{0})})
	r := newRig(t, n.url)
	for _, step := range []struct {
		wait time.Duration
		want int // requests so far
		of   string
		n    int
	}{
		{0, 1, "[0 0 1]", 1},
		{freshPart - 1, 1, "[1 0 1]", 1},
		{1, 2, "[1 0 1]", 2},
		{freshWhole - freshPart, 3, "[0 0 1]", 2},
	} {
		r.skip.Add(int64(step.wait))
		if got := r.Have(t.Context(), hashes(3)); len(got[0]) != 1 || len(got[1]) != 1 || len(got[2]) != 0 {
			t.Fatalf("%+v", got)
		}
		if n.requests() != step.want || n.of[step.of] != step.n {
			t.Errorf("after %v: %d requests, %v", time.Duration(r.skip.Load()), n.requests(), n.of)
		}
	}
}

// TestHaveTogether: many who ask at the same time share a request, and one that
// goes away does not take the answer along.
func TestHaveTogether(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	var requests atomic.Int32
	answer := peer.Handler(func(context.Context, [32]byte) *peer.Held { return heldOf(t, false, nil) })
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		close(asked)
		<-release
		answer.ServeHTTP(w, r)
	})
	r := newRig(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan [][]Claim)
	go func() { first <- r.Have(ctx, hashes(2)) }()
	<-asked
	cancel()
	if got := <-first; len(got) != 2 || got[0] != nil {
		t.Errorf("who went away has %+v", got)
	}
	var work sync.WaitGroup
	for range 10 {
		work.Go(func() {
			if got := r.Have(t.Context(), hashes(2)); len(got[0]) != 1 || len(got[1]) != 1 {
				t.Errorf("%+v", got)
			}
		})
	}
	close(release)
	work.Wait()
	if requests.Load() != 1 {
		t.Errorf("%d requests", requests.Load())
	}
}

// TestHaveClosure: a closure takes a request per 1,024 items.
func TestHaveClosure(t *testing.T) {
	n := newNode(t, map[[32]byte]*peer.Held{hashOf(2500): heldOf(t, false, nil)})
	r := newRig(t, n.url)
	if got := r.Have(t.Context(), hashes(2600)); len(got) != 2600 || len(got[2500]) != 1 || n.requests() != 3 {
		t.Errorf("%d requests; %+v", n.requests(), got[2500])
	}
}

// TestHostilePeers: whatever one peer does, the others' answers come, and the
// peer is left alone afterwards. A claim that can be one is handed on.
func TestHostilePeers(t *testing.T) {
	urn := heldOf(t, false, nil).ReadCap.URN()
	victim := newNode(t, map[[32]byte]*peer.Held{})
	for name, h := range map[string]http.HandlerFunc{
		"page":   func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>\n") },
		"error":  func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusInternalServerError) },
		"cut":    func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
		"absurd": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "whole urn:eris:7777 "+format+"\n") },
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, victim.url+r.URL.Path, http.StatusTemporaryRedirect)
		},
		"endless line": func(w http.ResponseWriter, r *http.Request) {
			for piece := strings.Repeat("A", 64<<10); ; {
				if _, err := io.WriteString(w, piece); err != nil {
					return
				}
			}
		},
		"endless lines": func(w http.ResponseWriter, r *http.Request) {
			for piece := strings.Repeat("-\n", 32<<10); ; {
				if _, err := io.WriteString(w, piece); err != nil {
					return
				}
			}
		},
		"huge bitmap": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "part "+urn+" "+format+" "+strings.Repeat("A", 1<<20)+"\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			good := newNode(t, map[[32]byte]*peer.Held{hashOf(0): heldOf(t, false, nil)})
			bad := serve(t, h)
			r := newRig(t, bad, good.url)
			got := r.Have(t.Context(), hashes(1))
			if len(got[0]) != 1 || got[0][0].Peer.Name() != good.url {
				t.Errorf("%+v", got)
			}
			if err := r.book.Usable(bad); err == nil || len(r.Nodes()) != 1 || len(r.Servers()) != 1 {
				t.Errorf("is asked on: %v, %v", err, names(r.Nodes()))
			}
			for _, p := range r.List() {
				if (p.URL == bad) != (p.Error != "") {
					t.Errorf("%+v", p)
				}
			}
		})
	}
	if victim.requests() != 0 {
		t.Error("a redirect was followed")
	}
}

// TestSlowPeer: a peer that says nothing holds nobody up for long, a near one
// that used to be fast less.
func TestSlowPeer(t *testing.T) {
	release := make(chan struct{})
	slow := serve(t, func(http.ResponseWriter, *http.Request) { <-release })
	t.Cleanup(func() { close(release) }) // before the server is closed
	r := newRig(t)
	r.net.set(found(slow))
	r.book.Note(fetch.Stat{Name: slow, Learnt: fetch.Learnt{Latency: time.Millisecond}})
	start := time.Now()
	if got := r.Have(t.Context(), hashes(1)); got[0] != nil {
		t.Error(got)
	}
	if took := time.Since(start); took < leastPatience || took > patience {
		t.Errorf("waited for %v", took)
	}
	// It is no failure, and grows until it answers.
	if err := r.book.Usable(slow); err != nil || len(r.Nodes()) != 0 || len(r.Servers()) != 1 {
		t.Errorf("%v, nodes %v", err, names(r.Nodes()))
	}
	if e := r.List()[0].Error; e != "did not say in time what it has, is asked again in 5s" {
		t.Errorf("%q", e)
	}
	p := r.all()[0]
	for _, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		r.skip.Add(int64(p.slow))
		p.rest(r.now())
		p.rest(r.now()) // of another who asked
		if p.slow != want*time.Second || p.asked(r.now()) {
			t.Errorf("rests for %v, want %d s", p.slow, want)
		}
	}
	p.answered(r.now())
	r.skip.Add(int64(time.Hour))
	if p.rest(r.now()); p.slow != firstRest {
		t.Errorf("after an answer: %v", p.slow)
	}
	for latency, want := range map[time.Duration]time.Duration{
		time.Nanosecond: leastPatience, 150 * time.Millisecond: 1500 * time.Millisecond, time.Minute: patience,
	} {
		r.book.Note(fetch.Stat{Name: slow, Learnt: fetch.Learnt{Latency: latency}})
		if got := r.patience(p); got != want {
			t.Errorf("usual %v: %v, want %v", latency, got, want)
		}
	}
	p.server.SetNear(false)
	if got := r.patience(p); got != patience {
		t.Errorf("a far one: %v", got)
	}
}

// TestNoPeer: a server that does not know the question is not asked again for
// an hour, and is a server all the same.
func TestNoPeer(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusForbidden} {
		var asked atomic.Int32
		url := serve(t, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			w.WriteHeader(status)
		})
		r := newRig(t, url)
		for range 2 {
			r.Have(t.Context(), hashes(1))
		}
		r.skip.Add(int64(mute - 1))
		r.Have(t.Context(), hashes(1))
		if asked.Load() != 1 || len(r.Nodes()) != 0 || len(r.Servers()) != 1 || r.List()[0].Kind != "publish" || r.List()[0].Error != "" {
			t.Errorf("%d: %d requests; %+v", status, asked.Load(), r.List())
		}
		r.skip.Add(1)
		if r.Have(t.Context(), hashes(1)); asked.Load() != 2 {
			t.Errorf("%d: not asked after an hour", status)
		}
	}
}

// TestBitmapsAreBounded: what peers say of parts does not take more memory than
// it may; beyond, nothing is known of which blocks there are.
func TestBitmapsAreBounded(t *testing.T) {
	has := map[[32]byte]*peer.Held{}
	for i := range 8 {
		has[hashOf(i)] = heldOf(t, true, make([]byte, maxBitmaps/4))
	}
	r := newRig(t, newNode(t, has).url)
	known, size := 0, 0
	for _, c := range r.Have(t.Context(), hashes(8)) {
		if c[0].Held.Leaves != nil {
			known++
			size += len(c[0].Held.Leaves)
		} else if !c[0].Held.Has(5) {
			t.Error("a part of which nothing is known lacks a block")
		}
	}
	if known != 4 || size != maxBitmaps {
		t.Errorf("%d bitmaps, %d bytes", known, size)
	}
	p := r.all()[0]
	p.expect(nil, r.now().Add(time.Hour))
	if len(p.answers) != 0 {
		t.Errorf("%d answers are kept for ever", len(p.answers))
	}
	many := hashes(maxKept + 10)
	p.expect(many, r.now())
	p.settle(many, make([]*peer.Held, len(many)), r.now())
	if len(p.answers) != maxKept {
		t.Errorf("%d answers are kept", len(p.answers))
	}
}

// TestSource gets a block of a node.
func TestSource(t *testing.T) {
	block := bytes.Repeat([]byte{7}, int(eris.Size1KiB))
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/uri-res/N2R" {
			w.Write(block)
			return
		}
		http.NotFound(w, r)
	})
	r := newRig(t, url)
	r.book.Note(fetch.Stat{Name: url, Learnt: fetch.Learnt{Latency: 5}})
	p := r.Nodes()[0]
	s := r.Source(p)
	if s.Name != url || s.Near || s.Prior.Latency != 5 {
		t.Errorf("%+v", s)
	}
	var got []byte
	err := s.Fetcher.Fetch(t.Context(), eris.Size1KiB, []eris.Ref{{1}}, func(_ int, b []byte) error {
		got = bytes.Clone(b)
		return nil
	})
	if err != nil || !bytes.Equal(got, block) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
