package doctor_test

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/internal/doctor"
	"ersatz/internal/nodeapi"
)

// nodeSocket is where the node of a machine is.
const nodeSocket = "/run/ersatz/node.sock"

// node adds a node that says how it does; with a nil status it refuses to.
func (m *machine) node(s *nodeapi.Status) {
	m.t.Helper()
	m.write("var/lib/ersatz-node/x", "", 0o644)
	name := filepath.Join(m.root, nodeSocket)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		m.t.Fatal(err)
	}
	l, err := net.Listen("unix", name)
	if err != nil {
		m.t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s == nil || r.URL.Path != nodeapi.StatusPath {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		if err := json.NewEncoder(w).Encode(s); err != nil {
			m.t.Error(err)
		}
	}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	m.t.Cleanup(server.Close)
}

// soundStatus is what a node in order says.
func soundStatus() *nodeapi.Status {
	return &nodeapi.Status{
		Version: "1.0", Share: "none", Listen: []string{"127.0.0.1:8181"}, State: "/var/lib/ersatz-node",
		Upstreams: []nodeapi.Upstream{{URL: "http://one", Answered: true}, {URL: "http://two", Answered: true}},
		Kept:      nodeapi.Kept{Items: 1, ItemBytes: 5, Quota: 10},
	}
}

func TestNode(t *testing.T) {
	for _, c := range []struct {
		name, check, text string
		level             doctor.Level
		change            func(s *nodeapi.Status)
	}{
		{name: "sound", check: "node", text: "version 1.0 answers at /run/ersatz/node.sock and 127.0.0.1:8181", level: doctor.OK},
		{name: "all answer", check: "node's upstreams", text: "2 upstreams", level: doctor.OK},
		{name: "not shared", check: "node's sharing", text: "none", level: doctor.OK},
		{name: "room", check: "node's disk", text: "1 item", level: doctor.OK},
		{name: "another version", check: "node", text: "this is version 1.0", level: doctor.Note, change: func(s *nodeapi.Status) { s.Version = "0.9" }},
		{name: "no upstream", check: "node's upstreams", text: "has none", level: doctor.Note, change: func(s *nodeapi.Status) { s.Upstreams = nil }},
		{name: "a silent upstream", check: "node's upstreams", text: "start: http://two", level: doctor.Note,
			change: func(s *nodeapi.Status) { s.Upstreams[1].Answered = false }},
		{name: "silent upstreams", check: "node's upstreams", text: "none has answered", level: doctor.Bad, change: func(s *nodeapi.Status) {
			s.Upstreams[0].Answered, s.Upstreams[1].Answered = false, false
		}},
		{name: "shared", check: "node's sharing", text: "lan", level: doctor.OK, change: func(s *nodeapi.Status) {
			s.Share, s.Listen = "lan", []string{"127.0.0.1:8181", "[::]:8181"}
		}},
		{name: "open and not shared", check: "node's sharing", text: "others can connect", level: doctor.Note,
			change: func(s *nodeapi.Status) { s.Listen = []string{"192.0.2.1:8181"} }},
		{name: "shared and closed", check: "node's sharing", text: "nobody else", level: doctor.Bad, change: func(s *nodeapi.Status) { s.Share = "all" }},
		{name: "room of the disk", check: "node's disk", text: "GiB free", level: doctor.OK},
		{name: "a small disk", check: "node's disk", text: "the disk is full before the quota is", level: doctor.Note, change: func(s *nodeapi.Status) { s.Kept.Quota = 1 << 60 }},
		{name: "no folder", check: "node's disk", text: "unknown", level: doctor.Note, change: func(s *nodeapi.Status) { s.State = "/none" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, s := sound(t, server(t, 0)), soundStatus()
			if c.change != nil {
				c.change(s)
			}
			m.node(s)
			f := examine(t, m, doctor.Options{Node: nodeSocket, Version: "1.0"})[c.check]
			if f.Level != c.level || !strings.Contains(f.Text, c.text) {
				t.Errorf("%s: %v: %q, want %v with %q", c.check, f.Level, f.Text, c.level, c.text)
			}
		})
	}
}

func TestNoNode(t *testing.T) {
	m := sound(t, server(t, 0))
	want := func(o doctor.Options, level doctor.Level, text string) {
		t.Helper()
		if f := examine(t, m, o)["node"]; f.Level != level || !strings.Contains(f.Text, text) {
			t.Errorf("%v: %q, want %v with %q", f.Level, f.Text, level, text)
		}
	}
	want(doctor.Options{}, doctor.Note, "none is asked")
	want(doctor.Options{Node: nodeSocket}, doctor.Note, "not there")
	m.node(nil)
	want(doctor.Options{Node: nodeSocket}, doctor.Bad, "500")
	remove("run")(m)
	m.write(nodeSocket, "", 0o666)
	want(doctor.Options{Node: nodeSocket}, doctor.Bad, "connection refused")
}

// TestDiskOfSilentNode: the disk is looked at though the node does not say
// where its state is.
func TestDiskOfSilentNode(t *testing.T) {
	m := sound(t, server(t, 0))
	if f, ok := examine(t, m, doctor.Options{Node: nodeSocket})["node's disk"]; ok {
		t.Errorf("no node was here: %+v", f)
	}
	m.write("var/lib/ersatz-node/x", "", 0o644)
	if f := examine(t, m, doctor.Options{Node: nodeSocket})["node's disk"]; !strings.HasPrefix(f.Text, "/var/lib/ersatz-node has ") {
		t.Errorf("not there: %+v", f)
	}
	m.node(nil)
	if f := examine(t, m, doctor.Options{Node: nodeSocket})["node's disk"]; !strings.HasPrefix(f.Text, "/var/lib/ersatz-node has ") {
		t.Errorf("silent: %+v", f)
	}
}

func TestUnits(t *testing.T) {
	m := sound(t, server(t, 0))
	want := func(check string, level doctor.Level, text string) {
		t.Helper()
		f, ok := examine(t, m, doctor.Options{})[check]
		if ok != (text != "") || f.Level != level || !strings.Contains(f.Text, text) {
			t.Errorf("%s: %v: %q, want %v with %q", check, f.Level, f.Text, level, text)
		}
	}
	want("node's unit", doctor.OK, "") // systemd does not run
	m.write("run/systemd/system/x", "", 0o644)
	want("node's unit", doctor.Note, "not installed")
	m.write("usr/lib/systemd/system/ersatz-node.socket", "", 0o644)
	want("node's unit", doctor.Note, "not enabled")
	m.write("etc/systemd/system/sockets.target.wants/ersatz-node.socket", "", 0o644)
	want("node's unit", doctor.OK, "is enabled")
	want("publish's unit", doctor.OK, "")
	m.write("etc/systemd/system/ersatz-publish.socket", "", 0o644)
	want("publish's unit", doctor.OK, "")
	m.write("etc/systemd/system/sockets.target.wants/ersatz-publish.socket", "", 0o644)
	want("publish's unit", doctor.OK, "is enabled")
	remove("etc/guix/signing-key.sec")(m)
	want("publish's unit", doctor.Bad, "cannot start without /etc/guix/signing-key.sec")
}

// TestDaemonOfNode has a stock guix-daemon ask the node.
func TestDaemonOfNode(t *testing.T) {
	for url, level := range map[string]doctor.Level{
		"http://localhost:8181/": doctor.OK,
		"http://127.0.0.1:8181":  doctor.OK,
		"http://127.0.0.1:8080":  doctor.Bad, // another server
		"http://one.example":     doctor.Bad,
	} {
		m := sound(t, "")
		m.node(soundStatus())
		m.daemon(100, "", "guix-daemon\x00--substitute-urls=http://two.example "+url+"\x00")
		f := examine(t, m, doctor.Options{Node: nodeSocket, Servers: []string{"file:///x"}})["daemon"]
		if f.Level != level || (level == doctor.OK) != strings.Contains(f.Text, "asks the node at "+url) {
			t.Errorf("%s: %v: %q", url, f.Level, f.Text)
		}
	}
}
