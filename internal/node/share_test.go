package node

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/narinfo"
	"ersatz/nixsig"
)

func TestShareServes(t *testing.T) {
	for _, c := range []struct {
		addr     string
		lan, all bool
	}{
		{"192.168.1.2", true, true}, {"10.0.0.1", true, true}, {"172.16.0.1", true, true}, {"169.254.3.4", true, true},
		{"fe80::1", true, true}, {"fd00::1", true, true}, {"172.32.0.1", false, true}, {"8.8.8.8", false, true}, {"2001:db8::1", false, true},
		{"100.64.0.1", false, true}, {"0.0.0.0", false, true},
	} {
		a := netip.MustParseAddr(c.addr)
		if ShareNone.serves(a) || ShareLAN.serves(a) != c.lan || ShareAll.serves(a) != c.all {
			t.Errorf("%s: lan %v, all %v", a, ShareLAN.serves(a), ShareAll.serves(a))
		}
	}
	if ShareLAN.serves(netip.Addr{}) || ShareAll.serves(netip.Addr{}) {
		t.Error("an unknown address is served")
	}
	for _, s := range []Share{ShareNone, ShareLAN, ShareAll} {
		if got, err := ParseShare(s.String()); err != nil || got != s {
			t.Errorf("%s: %s, %v", s, got, err)
		}
	}
	if _, err := ParseShare("LAN"); err == nil {
		t.Error("LAN is read")
	}
}

func TestClient(t *testing.T) {
	for _, c := range []struct {
		remote, own string
		addr        string
		local       bool
	}{
		{"127.0.0.1:1", "127.0.0.1:8181", "127.0.0.1", true},
		{"[::1]:1", "[::1]:8181", "::1", true},
		{"[::ffff:127.0.0.2]:1", "[::ffff:127.0.0.1]:8181", "127.0.0.2", true},
		{"192.168.1.2:1", "192.168.1.2:8181", "192.168.1.2", true},
		{"[::ffff:192.168.1.2]:1", "192.168.1.2:8181", "192.168.1.2", true},
		{"192.168.1.3:1", "192.168.1.2:8181", "192.168.1.3", false},
		{"[fe80::1%eth0]:1", "[fe80::2%eth0]:8181", "fe80::1", false},
		{"[fe80::1%eth0]:1", "[fe80::1%eth0]:8181", "fe80::1", true},
		{"@", "/run/socket", "", false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.remote
		own := net.Addr(&net.UnixAddr{Name: c.own})
		if a, err := netip.ParseAddrPort(c.own); err == nil {
			own = net.TCPAddrFromAddrPort(a)
		}
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, own))
		addr, local := client(r)
		if local != c.local || c.addr != "" && addr.String() != c.addr {
			t.Errorf("%s at %s: %s, %v", c.remote, c.own, addr, local)
		}
	}
}

// TestShared: others get what is kept and signed by a key of the share list,
// and nothing of it is fetched for them.
func TestShared(t *testing.T) {
	const lan, far = "192.168.1.7:99", "8.8.8.8:99"
	shared := makeItem(t, guixItem, "shared nar", true, "")
	secret := makeItem(t, "/gnu/store/0000000000000000000000000000000a-secret", "secret nar", false, "")
	offered := makeItem(t, "/gnu/store/0000000000000000000000000000000b-offered", "offered", true, "")
	for _, c := range []struct {
		share     Share
		from      string
		forbidden bool
	}{
		{ShareNone, lan, true}, {ShareNone, far, true}, {ShareLAN, lan, false}, {ShareLAN, far, true}, {ShareAll, lan, false}, {ShareAll, far, false},
	} {
		r := newRig(t)
		r.o.Share = c.share
		r.o.ShareKeys.Guix = r.o.ShareKeys.Guix.Add(testKey(t, 1).Public())
		r.keep(guixServer, shared)
		r.keep(guixServer, secret)
		r.publish(guixServer, offered)
		r.start(guixServer)
		hash := func(it testItem) [32]byte { return sha256.Sum256([]byte(it.nar)) }
		have := narinfo.FormatHash(hash(shared)) + "\n" + narinfo.FormatHash(hash(secret)) + "\n"
		block := func(it testItem) string { return "/uri-res/N2R?urn:blake2b:" + eris.Ref(hash(it)).String() }
		if c.forbidden {
			for _, path := range []string{"/nix-cache-info", "/" + shared.path.Hash + ".narinfo", block(shared), "/healthz"} {
				r.want(r.get(c.from, "GET", path), http.StatusForbidden)
			}
			r.want(r.send(c.from, "POST", "/eris/have", have), http.StatusForbidden)
			continue
		}
		r.want(r.get(c.from, "GET", "/"+shared.path.Hash+".narinfo"), http.StatusOK)
		if got := r.want(r.get(c.from, "GET", "/nar/"+shared.path.Base()), http.StatusOK); got != shared.nar {
			t.Errorf("nar %q", got)
		}
		if !r.transfers.wants[0].Kept {
			t.Error("an upstream could be asked for another machine")
		}
		for _, it := range []testItem{secret, offered} {
			r.want(r.get(c.from, "GET", "/"+it.path.Hash+".narinfo"), http.StatusNotFound)
			r.want(r.get(c.from, "GET", "/nar/"+it.path.Base()), http.StatusNotFound)
		}
		if r.client.count(guixServer+"/"+offered.path.Hash+".narinfo") > 0 {
			t.Error("an upstream was asked for another machine")
		}
		if got := r.send(c.from, "POST", "/eris/have", have).Body.String(); !strings.HasPrefix(got, "whole urn:eris:") || !strings.HasSuffix(got, "\n-\n") {
			t.Errorf("have: %q", got)
		}
		if got := r.send("", "POST", "/eris/have", have).Body.String(); strings.Contains(got, "-\n") {
			t.Errorf("have of this machine: %q", got)
		}
		r.want(r.get(c.from, "GET", block(shared)), http.StatusOK)
		r.want(r.get(c.from, "GET", block(secret)), http.StatusNotFound)
		r.want(r.get("", "GET", block(secret)), http.StatusOK)
		r.want(r.get(c.from, "GET", "/healthz"), http.StatusNotFound)
	}
}

func TestParseKeys(t *testing.T) {
	secret, err := nixsig.GenerateKey("k-1", bytes.NewReader(make([]byte, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	key := secret.Public().String()
	acl := Keys{}
	acl.Guix = acl.Guix.Add(testKey(t, 1).Public())
	for _, c := range []struct {
		text      string
		guix, nix int
		bad       bool
	}{
		{text: ""}, {text: "# none\n\n"}, {text: key, nix: 1}, {text: key + " # mine\n\n" + key + "\n", nix: 2},
		{text: " \n" + string(acl.Guix.Text()), guix: 1}, {text: "(acl", bad: true}, {text: "nonsense", bad: true}, {text: key + " " + key, bad: true},
	} {
		k, err := ParseKeys([]byte(c.text))
		if (err != nil) != c.bad || !c.bad && (len(k.Guix.Keys()) != c.guix || len(k.Nix) != c.nix) {
			t.Errorf("%.40q: %d, %d, %v", c.text, len(k.Guix.Keys()), len(k.Nix), err)
		}
		if both := acl.Add(k); !c.bad && (len(both.Guix.Keys()) != 1 || len(both.Nix) != c.nix) {
			t.Errorf("%.40q: added: %+v", c.text, both)
		}
	}
	// A narinfo of Nix counts by its own signature.
	body := "StorePath: " + nixItem + "\nNarHash: " + someHash + "\nNarSize: 3\nReferences: \n"
	n, err := narinfo.Parse([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	n, err = narinfo.Parse([]byte(body + "Sig: " + secret.Sign(n.Fingerprint()) + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (Keys{Nix: []nixsig.PublicKey{secret.Public()}}).Verify(n); err != nil {
		t.Error(err)
	}
	if _, err := acl.Verify(n); err == nil {
		t.Error("a narinfo without a signature by a key counts")
	}
}

// TestUploadLimit: all other machines together get so many bytes per second,
// and this machine is not bounded.
func TestUploadLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := NewLimiter(64 << 10)
		start := time.Now()
		for range 2 {
			w := httptest.NewRecorder()
			o := newOutlet(w, httptest.NewRequest("GET", "/", nil), limit)
			if n, err := o.Write(make([]byte, 320<<10)); n != 320<<10 || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		}
		if took := time.Since(start); took < 6*time.Second || took > 8*time.Second {
			t.Errorf("640 KiB at 64 KiB/s took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w := httptest.NewRecorder()
		o := newOutlet(w, httptest.NewRequest("GET", "/", nil).WithContext(ctx), limit)
		if n, err := o.Write(make([]byte, 320<<10)); err == nil || n != w.Body.Len() || n > 64<<10 {
			t.Errorf("gone client: %d bytes, %v", n, err)
		}
		start = time.Now()
		o = newOutlet(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), NewLimiter(0))
		if n, err := o.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil || time.Since(start) > 0 {
			t.Errorf("without a limit: %d bytes, %v, %v", n, err, time.Since(start))
		}
	})
}

// Other keys have another digest, and the same ones the same.
func TestKeysDigest(t *testing.T) {
	nix := func(name string) nixsig.PublicKey {
		k, err := nixsig.ParsePublicKey(name + ":" + strings.Repeat("A", 43) + "=")
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	one, two := testKey(t, 1).Public(), testKey(t, 2).Public()
	seen := map[string]int{}
	for i, k := range []Keys{
		{}, {Guix: guixsig.ACL{}.Add(one)}, {Guix: guixsig.ACL{}.Add(two)}, {Guix: guixsig.ACL{}.Add(one).Add(two)},
		{Nix: []nixsig.PublicKey{nix("a")}}, {Nix: []nixsig.PublicKey{nix("b")}}, {Guix: guixsig.ACL{}.Add(one), Nix: []nixsig.PublicKey{nix("a")}},
	} {
		d := k.Digest()
		if j, twice := seen[d]; twice || d != k.Add(Keys{}).Digest() {
			t.Errorf("keys %d and %d: %s", i, j, d)
		}
		seen[d] = i
	}
}

// pipe is one connection, from another machine, and a listener that gives it.
type pipe struct {
	net.Conn
	once sync.Once
	done chan struct{}
}

func (*pipe) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }
func (*pipe) Addr() net.Addr       { return &net.TCPAddr{} }

func (p *pipe) Accept() (c net.Conn, err error) {
	p.once.Do(func() { c = p })
	if c == nil {
		<-p.done
		err = net.ErrClosed
	}
	return c, err
}

// TestRefusedSender: who is not served, and does not send the body that was promised,
// does not keep a connection.
func TestRefusedSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start(guixServer)
		client, server := net.Pipe()
		p := &pipe{Conn: server, done: make(chan struct{})}
		s := &http.Server{Handler: r.node.Web()}
		var work sync.WaitGroup
		work.Go(func() { s.Serve(p) })
		fmt.Fprint(client, "POST /eris/blocks HTTP/1.1\r\nHost: node\r\nContent-Length: 32\r\n\r\n")
		client.SetReadDeadline(time.Now().Add(2 * bodyTime))
		res, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil || res.StatusCode != http.StatusForbidden {
			t.Errorf("%v, %v", res, err)
		}
		close(p.done)
		if err := errors.Join(s.Close(), client.Close()); err != nil {
			t.Error(err)
		}
		work.Wait()
	})
}
