package doctor_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/doctor"
)

// machine is a made-up root folder.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) *machine { return &machine{t, t.TempDir()} }

func (m *machine) write(name, text string, perm os.FileMode) {
	m.t.Helper()
	path := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), perm); err != nil {
		m.t.Fatal(err)
	}
}

// daemon adds a running guix-daemon.
func (m *machine) daemon(pid int, environ, cmdline string) {
	dir := fmt.Sprintf("proc/%d/", pid)
	m.write(dir+"comm", "guix-daemon\n", 0o644)
	m.write(dir+"environ", environ, 0o644)
	m.write(dir+"cmdline", cmdline, 0o644)
	m.write(dir+"status", fmt.Sprintf("Name:\tguix-daemon\nUid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", os.Getuid()), 0o644)
}

// publicKey returns the text of a public key that is made of a random source.
func publicKey(t *testing.T, random io.Reader) string {
	t.Helper()
	key, err := guixsig.GenerateKey(random)
	if err != nil {
		t.Fatal(err)
	}
	return string(key.Public().Text())
}

// sound makes a machine with nothing to mend, whose daemon asks server.
func sound(t *testing.T, server string) *machine {
	t.Helper()
	m := newMachine(t)
	key, err := guixsig.GenerateKey(zeros{})
	if err != nil {
		t.Fatal(err)
	}
	m.write("etc/guix/acl", string(guixsig.ACL{}.Add(key.Public()).Text()), 0o644)
	m.write("etc/guix/signing-key.pub", string(key.Public().Text()), 0o644)
	m.write("etc/guix/signing-key.sec", string(key.Text()), 0o600)
	m.write("usr/local/bin/ersatz-guix", "#!/bin/sh\nexec ersatz \"$@\"\n", 0o755)
	m.write("var/lib/ersatz/x", "", 0o644)
	m.write("gnu/store/x", "", 0o644)
	m.daemon(100, "PATH=/bin\x00GUIX=/usr/local/bin/ersatz-guix\x00", "guix-daemon\x00--substitute-urls="+server+"\x00")
	m.daemon(222, "", "guix-daemon\x00") // its child
	m.daemon(50, "", "")                 // one that ended and was not waited for
	return m
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// server returns a substitute server whose clock is off by skew.
func server(t *testing.T, skew time.Duration) string { return serverOf(t, skew, "") }

// serverOf returns one that says that it signs with a key, unless that is "".
func serverOf(t *testing.T, skew time.Duration, key string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/signing-key.pub" && key != "":
			fmt.Fprint(w, key)
			return
		case r.URL.Path != "/nix-cache-info":
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Date", time.Now().Add(skew).UTC().Format(http.TimeFormat))
		fmt.Fprint(w, "StoreDir: /gnu/store\n")
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func examine(t *testing.T, m *machine, o doctor.Options) map[string]doctor.Finding {
	t.Helper()
	o.Root = m.root
	byCheck := map[string]doctor.Finding{}
	for _, f := range doctor.Examine(t.Context(), o) {
		if old, ok := byCheck[f.Check]; !ok || f.Level > old.Level {
			byCheck[f.Check] = f
		}
		if f.Level == doctor.Bad && f.Advice == "" {
			t.Errorf("%s is bad and has no advice", f.Check)
		}
	}
	return byCheck
}

func TestSoundMachine(t *testing.T) {
	ipfs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"Version":"0.40.1"}`)
	}))
	defer ipfs.Close()
	m := sound(t, server(t, 0))
	m.node(soundStatus())
	for check, f := range examine(t, m, doctor.Options{IPFS: ipfs.URL, Node: nodeSocket}) {
		// The disk that the tests run on may be short of space.
		if f.Level != doctor.OK && !strings.Contains(f.Text, "GiB free") && !strings.HasPrefix(f.Text, "Nix is not looked at") {
			t.Errorf("%s: %v: %s", check, f.Level, f.Text)
		}
	}
}

func TestFaults(t *testing.T) {
	dead := httptest.NewServer(nil)
	dead.Close()
	for _, c := range []struct {
		name, check, text string
		level             doctor.Level
		change            func(m *machine)
		o                 doctor.Options
	}{
		{name: "no ACL", check: "acl", text: "is missing", level: doctor.Bad, change: remove("etc/guix/acl")},
		{name: "empty ACL", check: "acl", text: "no keys", level: doctor.Bad, change: write("etc/guix/acl", "(acl)", 0o644)},
		{name: "broken ACL", check: "acl", text: "/etc/guix/acl", level: doctor.Bad, change: write("etc/guix/acl", "(acl", 0o644)},
		{name: "no key", check: "signing key", text: "only publish", level: doctor.Note, change: remove("etc/guix/signing-key.pub")},
		{name: "no private key", check: "signing key", text: "no such file", level: doctor.Note, change: remove("etc/guix/signing-key.sec")},
		{name: "broken key", check: "signing key", text: "signing-key.sec", level: doctor.Bad, change: write("etc/guix/signing-key.sec", "()", 0o600)},
		{name: "readable key", check: "signing key", text: "mode 0644", level: doctor.Bad, change: func(m *machine) {
			if err := os.Chmod(filepath.Join(m.root, "etc/guix/signing-key.sec"), 0o644); err != nil {
				m.t.Fatal(err)
			}
		}},
		{name: "no daemon", check: "daemon", text: "no guix-daemon runs", level: doctor.Bad, change: remove("proc")},
		{name: "daemon without GUIX", check: "daemon", text: "runs without GUIX", level: doctor.Bad,
			change: write("proc/100/environ", "PATH=/bin\x00", 0o644)},
		{name: "votes", check: "votes", text: "demands 1 of 2 keys", level: doctor.OK, change: policy(1), o: doctor.Options{Votes: "/etc/ersatz/votes"}},
		{name: "too few keys", check: "votes", text: "authorizes 1 of its", level: doctor.Bad, change: policy(2), o: doctor.Options{Votes: "/etc/ersatz/votes"}},
		{name: "broken votes", check: "votes", text: "nothing is installed", level: doctor.Bad,
			change: write("etc/ersatz/votes", "require\n", 0o644), o: doctor.Options{Votes: "/etc/ersatz/votes"}},
		{name: "no votes", check: "votes", text: "no such file", level: doctor.Bad, o: doctor.Options{Votes: "/etc/ersatz/votes"}},
		{name: "daemon not restarted", check: "daemon", text: "before GUIX was set", level: doctor.Bad, change: func(m *machine) {
			m.write("proc/100/environ", "", 0o644)
			m.write("etc/systemd/system/guix-daemon.service.d/ersatz.conf", "[Service]\nEnvironment=\"GUIX=/usr/local/bin/ersatz-guix\"\n", 0o644)
		}},
		{name: "drop-in but no daemon", check: "wrapper", text: "the unit of systemd", level: doctor.OK, change: func(m *machine) {
			if err := os.RemoveAll(filepath.Join(m.root, "proc")); err != nil {
				m.t.Fatal(err)
			}
			m.write("etc/systemd/system/guix-daemon.service.d/ersatz.conf", "[Service]\nEnvironment=GUIX=/usr/local/bin/ersatz-guix\n", 0o644)
		}},
		{name: "no wrapper", check: "wrapper", text: "no such file", level: doctor.Bad, change: remove("usr/local/bin/ersatz-guix")},
		{name: "wrapper without x", check: "wrapper", text: "not executable", level: doctor.Bad, change: func(m *machine) {
			if err := os.Chmod(filepath.Join(m.root, "usr/local/bin/ersatz-guix"), 0o644); err != nil {
				m.t.Fatal(err)
			}
		}},
		{name: "another program", check: "wrapper", text: "does not mention", level: doctor.Bad,
			change: write("usr/local/bin/ersatz-guix", "#!/bin/sh\nexec guix\n", 0o755)},
		{name: "no state folder", check: "state folder", text: "does not exist", level: doctor.Note, change: remove("var/lib/ersatz")},
		{name: "state is a file", check: "state folder", text: "no folder", level: doctor.Bad, change: func(m *machine) {
			remove("var/lib/ersatz")(m)
			m.write("var/lib/ersatz", "", 0o644)
		}},
		{name: "state of another user", check: "state folder", text: "belongs to", level: doctor.Bad,
			change: write("proc/100/status", "Uid:\t1\t4321\t1\t1\n", 0o644)},
		{name: "no store", check: "store", text: "no such file", level: doctor.Bad, change: remove("gnu")},
		{name: "dead server", check: "server", text: "connection refused", level: doctor.Bad, o: doctor.Options{Servers: []string{dead.URL}}},
		{name: "another server", check: "server", text: "404", level: doctor.Bad, o: doctor.Options{Servers: []string{server(t, 0) + "/sub"}}},
		{name: "foreign key", check: "server", text: "/etc/guix/acl does not authorize", level: doctor.Bad,
			o: doctor.Options{Servers: []string{serverOf(t, 0, publicKey(t, rand.Reader))}}},
		{name: "own key", check: "server", text: "answered", level: doctor.OK, o: doctor.Options{Servers: []string{serverOf(t, 0, publicKey(t, zeros{}))}}},
		{name: "another text than a key", check: "server", text: "answered", level: doctor.OK, o: doctor.Options{Servers: []string{serverOf(t, 0, "(a login page)")}}},
		{name: "foreign key and no ACL", check: "server", text: "answered", level: doctor.OK, change: remove("etc/guix/acl"),
			o: doctor.Options{Servers: []string{serverOf(t, 0, publicKey(t, rand.Reader))}}},
		{name: "no file server", check: "server", text: "no such file", level: doctor.Bad, o: doctor.Options{Servers: []string{"file:///srv"}}},
		{name: "dead daemon", check: "ipfs", text: "connection refused", level: doctor.Bad, o: doctor.Options{IPFS: dead.URL}},
		{name: "bad address", check: "ipfs", text: "not like", level: doctor.Bad, o: doctor.Options{IPFS: "localhost"}},
		{name: "no ipfs", check: "ipfs", text: "no IPFS", level: doctor.Note},
		{name: "skewed clock", check: "clock", text: "differs", level: doctor.Bad, o: doctor.Options{Servers: []string{server(t, time.Hour)}}},
		{name: "clock never set", check: "clock", text: "1970-01-01", level: doctor.Bad,
			o: doctor.Options{Now: func() time.Time { return time.Unix(60, 0) }}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := sound(t, server(t, 0))
			if c.change != nil {
				c.change(m)
			}
			f := examine(t, m, c.o)[c.check]
			if f.Level != c.level || !strings.Contains(f.Text, c.text) {
				t.Fatalf("%s: %v: %q, want %v with %q", c.check, f.Level, f.Text, c.level, c.text)
			}
		})
	}
}

// policy demands a number of the machine's own key and another one.
func policy(need int) func(*machine) {
	return func(m *machine) {
		text, err := os.ReadFile(filepath.Join(m.root, "etc/guix/signing-key.pub"))
		if err != nil {
			m.t.Fatal(err)
		}
		key, err := guixsig.ParsePublicKey(text)
		if err != nil {
			m.t.Fatal(err)
		}
		m.write("etc/ersatz/votes", fmt.Sprintf("require %d of\n%s own\ncache.example-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\n", need, key), 0o644)
	}
}

func remove(name string) func(*machine) {
	return func(m *machine) {
		if err := os.RemoveAll(filepath.Join(m.root, name)); err != nil {
			m.t.Fatal(err)
		}
	}
}

func write(name, text string, perm os.FileMode) func(*machine) {
	return func(m *machine) { m.write(name, text, perm) }
}

func TestPrint(t *testing.T) {
	findings := []doctor.Finding{
		{Check: "acl", Level: doctor.OK, Text: "fine"},
		{Check: "clock", Level: doctor.Bad, Text: "wrong", Advice: "set it\nat once"},
	}
	var b bytes.Buffer
	if err := doctor.Print(&b, findings); err != nil {
		t.Fatal(err)
	}
	const want = "ok   acl: fine\nBAD  clock: wrong\n       set it\n       at once\n"
	if b.String() != want {
		t.Fatalf("got\n%swant\n%s", b.String(), want)
	}
	b.Reset()
	if err := doctor.PrintJSON(&b, findings); err != nil {
		t.Fatal(err)
	}
	var back []map[string]string
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if back[1]["level"] != "bad" || back[1]["advice"] != "set it\nat once" {
		t.Fatalf("got %v", back)
	}
	if n := doctor.Faults(findings); n != 1 {
		t.Fatalf("%d faults", n)
	}
}

// TestPassword: findings are pasted into reports.
func TestPassword(t *testing.T) {
	with := func(url string) string { return strings.Replace(url, "://", "://me:secret@", 1) }
	for _, url := range []string{server(t, 0), serverOf(t, 0, publicKey(t, rand.Reader)), "http://127.0.0.1:1"} {
		m := sound(t, url)
		for _, f := range doctor.Examine(t.Context(), doctor.Options{Root: m.root, Servers: []string{with(url)}, IPFS: with("http://127.0.0.1:1")}) {
			if strings.Contains(f.Text+f.Advice, "secret") {
				t.Errorf("%+v", f)
			}
		}
	}
}
