package config_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ersatz/internal/config"
)

// env returns a getenv over pairs.
func env(pairs ...string) func(string) string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return m[name] }
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestDefaults(t *testing.T) {
	c, err := config.Load(env("ERSATZ_CONFIG", file(t, "# nothing\n"), "HOME", "/home/u"))
	if err != nil {
		t.Fatal(err)
	}
	if c.ACL != "/etc/guix/acl" || c.IPFS != "" || c.Node != "/run/ersatz/node.sock" || c.Log != slog.LevelWarn {
		t.Errorf("defaults are %+v", c)
	}
	if want := []string{"/var/lib/ersatz", "/home/u/.local/state/ersatz"}; !slices.Equal(c.States, want) {
		t.Errorf("states are %q, want %q", c.States, want)
	}
	c, err = config.Load(env("ERSATZ_CONFIG", file(t, ""), "XDG_STATE_HOME", "/x", "HOME", "/home/u"))
	if want := []string{"/var/lib/ersatz", "/x/ersatz"}; err != nil || !slices.Equal(c.States, want) {
		t.Errorf("states are %q (%v), want %q", c.States, err, want)
	}
}

func TestEnvironmentBeforeFile(t *testing.T) {
	name := file(t, "acl = /file/acl\nstate=/file/state\n  ipfs =  http://127.0.0.1:5001  \nlog = debug\n")
	c, err := config.Load(env("ERSATZ_CONFIG", name, "ERSATZ_ACL", "/env/acl", "ERSATZ_LOG", "error"))
	if err != nil {
		t.Fatal(err)
	}
	if c.ACL != "/env/acl" || !slices.Equal(c.States, []string{"/file/state"}) ||
		c.IPFS != "http://127.0.0.1:5001" || c.Log != slog.LevelError || c.File != name {
		t.Errorf("settings are %+v", c)
	}
}

func TestNode(t *testing.T) {
	for _, c := range []struct{ file, env, want string }{
		{"", "", "/run/ersatz/node.sock"}, {"node = /a", "", "/a"}, {"node = /a", "/b", "/b"}, {"node = none", "", ""}, {"node = /a", "none", ""},
	} {
		got, err := config.Load(env("ERSATZ_CONFIG", file(t, c.file), "ERSATZ_NODE", c.env))
		if err != nil || got.Node != c.want {
			t.Errorf("file %q, environment %q: %q, %v", c.file, c.env, got.Node, err)
		}
	}
}

func TestVotes(t *testing.T) {
	for _, c := range []struct{ file, env, want string }{
		{"", "", ""}, {"votes = /a", "", "/a"}, {"votes = /a", "/b", "/b"},
	} {
		got, err := config.Load(env("ERSATZ_CONFIG", file(t, c.file), "ERSATZ_VOTES", c.env))
		if err != nil || got.Votes != c.want {
			t.Errorf("file %q, environment %q: %q, %v", c.file, c.env, got.Votes, err)
		}
	}
}

func TestMissingFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "none")
	if _, err := config.Load(env("ERSATZ_CONFIG", name)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a named file that is missing: %v", err)
	}
	if _, err := os.Stat(config.DefaultFile); err == nil {
		t.Skip("this machine has a " + config.DefaultFile)
	}
	if c, err := config.Load(env()); err != nil || c.File != "" {
		t.Errorf("no file: %+v, %v", c, err)
	}
}

func TestInvalid(t *testing.T) {
	for _, c := range []struct{ name, text, env, value, want string }{
		{name: "unknown name", text: "acl = /a\nacll = /b\n", want: `line 2: unknown name "acll"`},
		{name: "no equals sign", text: "acl /a\n", want: "line 1"},
		{name: "no value", text: "\n\nlog =\n", want: "line 3: log has no value"},
		{name: "twice", text: "log = info\nlog = info\n", want: "line 2: log stands twice"},
		{name: "control character", text: "acl = /a\x01b\n", want: "control characters"},
		{name: "not UTF-8", text: "acl = /\xff\n", want: "control characters"},
		{name: "relative", text: "acl = etc/acl\n", want: "acl: \"etc/acl\" is no absolute path"},
		{name: "relative in environment", env: "ERSATZ_STATE", value: "x", want: "ERSATZ_STATE"},
		{name: "socket", text: "node = node.sock\n", want: "node: \"node.sock\" is no absolute path"},
		{name: "policy", text: "votes = votes\n", want: "votes: \"votes\" is no absolute path"},
		{name: "address", env: "ERSATZ_IPFS", value: "localhost:5001", want: "no http URL"},
		{name: "query", env: "ERSATZ_IPFS", value: "http://localhost:5001/?x", want: "no http URL"},
		{name: "level", text: "log = loud\n", want: "none of debug"},
		{name: "level with offset", text: "log = info+3\n", want: "none of debug"},
		{name: "every fault", text: "acl = a\nlog = loud\n", want: "none of debug"},
		{name: "too long", text: strings.Repeat("# comment\n", 7000), want: "65536 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := config.Load(env("ERSATZ_CONFIG", file(t, c.text), c.env, c.value))
			if !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			if c.name == "every fault" && !strings.Contains(err.Error(), "absolute") {
				t.Errorf("only one of two faults is reported: %v", err)
			}
		})
	}
}

func TestUnreadableFile(t *testing.T) {
	if _, err := config.Load(env("ERSATZ_CONFIG", t.TempDir())); err == nil {
		t.Error("a folder was read as a file")
	}
}

func FuzzParse(f *testing.F) {
	seeds := []string{
		"", "# comment\n", "acl = /etc/guix/acl\nstate = /s\nipfs = http://127.0.0.1:5001\nlog = debug\n",
		"acl=/a=b\n", "acl = /a\r\n", "log\n", "x = y\n", "log = a\nlog = b\n", " \t acl \t=\t /a", "acl = /ä\n",
	}
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := config.Parse(text)
		if err != nil {
			if !errors.Is(err, config.ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		again, err := config.Parse([]byte(s.String()))
		if err != nil || !maps.Equal(s, again) {
			t.Fatalf("%q is printed as %q, which is read as %q (%v)", s, s.String(), again, err)
		}
	})
}
