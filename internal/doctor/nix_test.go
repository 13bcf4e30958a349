package doctor_test

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/internal/doctor"
	"ersatz/narinfo"
	"ersatz/nixsig"
	"ersatz/storepath"
)

const nixItem = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1-hello-1.0"

// nixServer is a substituter of one item of Nix.
type nixServer struct {
	storeDir string
	signed   nixsig.SecretKey // of the item's narinfo
	public   string           // nix-key.pub; "" if it has none
	empty    bool             // it has no item
	ca       bool             // the item is addressed by content
}

func nixKey(t *testing.T, name string) nixsig.SecretKey {
	t.Helper()
	key, err := nixsig.GenerateKey(name, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (s *nixServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	hash, _, _ := strings.Cut(nixItem, "-")
	switch name := filepath.Base(r.URL.Path); {
	case name == "nix-cache-info":
		fmt.Fprintf(w, "StoreDir: %s\n", s.storeDir)
	case name == "nix-key.pub" && s.public != "":
		fmt.Fprintln(w, s.public)
	case name == hash+".narinfo" && !s.empty:
		path, err := storepath.Parse("/nix/store/" + nixItem)
		if err != nil {
			panic(err)
		}
		f := narinfo.Fields{StorePath: path, NarSize: 1}
		fmt.Fprintf(w, "%sURL: nar/x\nCompression: none\n", f.Body())
		if s.ca {
			fmt.Fprint(w, "CA: fixed:r:sha256:x\n")
		} else {
			fmt.Fprintf(w, "%s", f.SignNix(s.signed))
		}
	default:
		http.NotFound(w, r)
	}
}

// nixMachine has Nix alone, in order: its node is a server on this machine.
func nixMachine(t *testing.T, change func(m *machine, s *nixServer)) *machine {
	t.Helper()
	m, key := newMachine(t), nixKey(t, "cache-1")
	s := &nixServer{storeDir: "/nix/store", signed: key}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	status := soundStatus()
	status.Listen = []string{server.Listener.Addr().String()}
	m.node(status)
	m.write("nix/store/"+nixItem, "", 0o644)
	m.write("etc/nix/nix.conf", fmt.Sprintf("substituters = %s/nix?priority=1\ntrusted-public-keys = %v\n", server.URL, key.Public()), 0o644)
	m.listen("nix/var/nix/daemon-socket/socket")
	if change != nil {
		change(m, s)
	}
	return m
}

// listen makes a Unix socket that takes connections.
func (m *machine) listen(name string) {
	m.t.Helper()
	name = filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		m.t.Fatal(err)
	}
	l, err := net.Listen("unix", name)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { l.Close() })
}

func (m *machine) read(name string) string {
	m.t.Helper()
	text, err := os.ReadFile(filepath.Join(m.root, name))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}

// more appends to nix.conf.
func more(text string) func(*machine, *nixServer) {
	return func(m *machine, _ *nixServer) {
		m.write("etc/nix/nix.conf", m.read("etc/nix/nix.conf")+text, 0o644)
	}
}

// TestSoundNix: nothing is to be mended where there is only Nix, and nothing of
// Guix is looked at.
func TestSoundNix(t *testing.T) {
	m := nixMachine(t, nil)
	findings := examine(t, m, doctor.Options{Node: nodeSocket})
	for check, f := range findings {
		if f.Level != doctor.OK && !strings.Contains(f.Text, "GiB free") && check != "machine" {
			t.Errorf("%s: %v: %s", check, f.Level, f.Text)
		}
	}
	if f := findings["machine"]; f.Level != doctor.Note || !strings.Contains(f.Text, "Guix is not looked at: no /gnu/store, ") {
		t.Errorf("%+v", f)
	}
	for _, check := range []string{"acl", "signing key", "daemon", "server", "ipfs", "state folder", "store"} {
		if f, ok := findings[check]; ok {
			t.Errorf("%+v", f)
		}
	}
	for _, check := range []string{"nix-daemon", "nix.conf", "substituter", "nix keys", "nix store", "clock"} {
		if _, ok := findings[check]; !ok {
			t.Errorf("%s was not looked at", check)
		}
	}
}

func TestNixFaults(t *testing.T) {
	other := nixKey(t, "other-1").Public().String()
	removed := func(name string) func(*machine, *nixServer) {
		return func(m *machine, _ *nixServer) { remove(name)(m) }
	}
	for _, c := range []struct {
		name, check, text string
		level             doctor.Level
		change            func(m *machine, s *nixServer)
	}{
		{name: "nothing", check: "machine", text: "neither Guix nor Nix", level: doctor.Bad, change: removed("nix")},
		{name: "nothing but a node", check: "machine", text: "only others to serve", level: doctor.Note, change: func(m *machine, _ *nixServer) {
			remove("nix")(m)
			m.write("etc/systemd/system/sockets.target.wants/ersatz-node.socket", "", 0o644)
		}},
		{name: "Guix as well", check: "machine", text: "there are Guix and Nix", level: doctor.OK,
			change: func(m *machine, _ *nixServer) { m.write("gnu/store/x", "", 0o644) }},
		{name: "a unit of Guix", check: "daemon", text: "no guix-daemon runs", level: doctor.Bad,
			change: func(m *machine, _ *nixServer) { m.write("lib/systemd/system/guix-daemon.service", "", 0o644) }},
		{name: "no daemon", check: "nix-daemon", text: "there is none", level: doctor.Note, change: removed("nix/var/nix/daemon-socket")},
		{name: "stopped daemon", check: "nix-daemon", text: "does not run", level: doctor.Bad, change: func(m *machine, _ *nixServer) {
			remove("nix/var/nix/daemon-socket")(m)
			m.write("usr/lib/systemd/system/nix-daemon.service", "", 0o644)
		}},
		{name: "dead daemon", check: "nix-daemon", text: "connection refused", level: doctor.Bad, change: func(m *machine, _ *nixServer) {
			remove("nix/var/nix/daemon-socket")(m)
			m.write("nix/var/nix/daemon-socket/socket", "", 0o644)
		}},
		{name: "publish without Guix's key", check: "publish's unit", text: "is enabled", level: doctor.OK, change: func(m *machine, _ *nixServer) {
			m.write("run/systemd/system/x", "", 0o644)
			m.write("etc/systemd/system/ersatz-publish.socket", "", 0o644)
			m.write("etc/systemd/system/sockets.target.wants/ersatz-publish.socket", "", 0o644)
		}},
		{name: "no store", check: "nix store", text: "is not there", level: doctor.Bad, change: removed("nix/store")},
		{name: "not asked", check: "nix.conf", text: "Nix asks nobody by HTTP", level: doctor.Bad, change: more("substituters = ssh://elsewhere\n")},
		{name: "not asked, beside Guix", check: "nix.conf", text: "names no node", level: doctor.Note, change: func(m *machine, _ *nixServer) {
			m.write("gnu/store/x", "", 0o644)
			m.write("etc/nix/nix.conf", "substituters =\n", 0o644)
		}},
		{name: "another port", check: "nix.conf", text: "Nix asks http://localhost:1/nix", level: doctor.Bad, change: more("substituters = http://localhost:1/nix\n")},
		{name: "broken", check: "nix.conf", text: "is not NAME = VALUE", level: doctor.Bad, change: more("sandbox\n")},
		{name: "broken key", check: "nix.conf", text: "trusted-public-keys", level: doctor.Bad, change: more("trusted-public-keys = x\n")},
		{name: "silent", check: "substituter", text: "connection refused", level: doctor.Bad, change: more("extra-substituters = http://127.0.0.1:1\n")},
		{name: "another store", check: "substituter", text: "serves /gnu/store", level: doctor.Bad,
			change: func(_ *machine, s *nixServer) { s.storeDir = "/gnu/store" }},
		{name: "a key", check: "substituter", text: "answered", level: doctor.OK,
			change: func(_ *machine, s *nixServer) { s.public = s.signed.Public().String() }},
		{name: "foreign key", check: "substituter", text: "does not trust", level: doctor.Bad,
			change: func(_ *machine, s *nixServer) { s.public = other }},
		{name: "unsigned", check: "substituter", text: "answered", level: doctor.OK, change: func(m *machine, s *nixServer) {
			s.public = other
			more("require-sigs = false\n")(m, s)
		}},
		{name: "signed by another", check: "nix keys", text: `signed by "foreign-1"`, level: doctor.Bad,
			change: func(_ *machine, s *nixServer) { s.signed = nixKey(t, "foreign-1") }},
		{name: "addressed by content", check: "nix keys", text: "1 of 1 item", level: doctor.OK,
			change: func(_ *machine, s *nixServer) { s.ca = true }},
		{name: "nothing to look at", check: "nix keys", text: "0 of 1 item", level: doctor.Note,
			change: func(_ *machine, s *nixServer) { s.empty = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := nixMachine(t, c.change)
			f := examine(t, m, doctor.Options{Node: nodeSocket})[c.check]
			if f.Level != c.level || !strings.Contains(f.Text, c.text) {
				t.Fatalf("%s: %v: %q, want %v with %q", c.check, f.Level, f.Text, c.level, c.text)
			}
		})
	}
}

// TestNixAdvice names the port that the node has.
func TestNixAdvice(t *testing.T) {
	var port string
	m := nixMachine(t, func(m *machine, _ *nixServer) {
		port = m.read("etc/nix/nix.conf")
		_, port, _ = strings.Cut(port, "http://127.0.0.1:")
		port, _, _ = strings.Cut(port, "/")
		m.write("etc/nix/nix.conf", "substituters =\n", 0o644)
	})
	if f := examine(t, m, doctor.Options{Node: nodeSocket})["nix.conf"]; !strings.Contains(f.Advice, "extra-substituters = http://127.0.0.1:"+port+"/nix\n") {
		t.Errorf("%q, port %s", f.Advice, port)
	}
	if f := examine(t, m, doctor.Options{})["nix.conf"]; !strings.Contains(f.Advice, "http://127.0.0.1:8181/nix") {
		t.Errorf("%q", f.Advice)
	}
}

// TestNixDeadNode: who does not answer is the node, and not the network.
func TestNixDeadNode(t *testing.T) {
	m := nixMachine(t, func(m *machine, _ *nixServer) {
		m.write("etc/nix/nix.conf", "substituters = http://127.0.0.1:1/nix\n", 0o644)
	})
	if f := examine(t, m, doctor.Options{})["substituter"]; f.Level != doctor.Bad || !strings.HasPrefix(f.Advice, "start the node: ") {
		t.Errorf("%+v", f)
	}
}

// TestNixWithoutSocket: a node that doctor cannot ask is known by its address.
func TestNixWithoutSocket(t *testing.T) {
	m := nixMachine(t, nil)
	findings := examine(t, m, doctor.Options{})
	for check, text := range map[string]string{"nix.conf": "asks the node at", "nix keys": "1 of 1 item"} {
		if f := findings[check]; f.Level != doctor.OK || !strings.Contains(f.Text, text) {
			t.Errorf("%+v", f)
		}
	}
}
