package doctor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// writeNixConf writes files beside a machine's nix.conf, and returns their folder.
func writeNixConf(t *testing.T, root string, files map[string]string) (dir string) {
	t.Helper()
	dir = filepath.Join(root, filepath.Dir(nixConf))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadNixConf(t *testing.T) {
	for _, c := range []struct {
		name         string
		files        map[string]string
		substituters string // separated by blanks
		keys         int
		unsigned     bool
		err          string // "" if none
	}{
		{name: "none", substituters: "https://cache.nixos.org/", keys: 1},
		{name: "set", files: map[string]string{"nix.conf": "substituters = http://a http://b # c\ntrusted-public-keys =\n"}, substituters: "http://a http://b"},
		{name: "more", files: map[string]string{"nix.conf": "extra-substituters = http://a\nextra-trusted-public-keys = k l\n"}, substituters: "https://cache.nixos.org/ http://a", keys: 3},
		{name: "old names", files: map[string]string{"nix.conf": "binary-caches = http://a\nbinary-cache-public-keys = k l m\n"}, substituters: "http://a", keys: 3},
		{name: "last counts", files: map[string]string{"nix.conf": "extra-substituters = http://a\nsubstituters = http://b\n"}, substituters: "http://b", keys: 1},
		{name: "unsigned", files: map[string]string{"nix.conf": "require-sigs = false\nsandbox = true\n"}, substituters: "https://cache.nixos.org/", keys: 1, unsigned: true},
		{name: "included", files: map[string]string{"nix.conf": "include more.conf\n!include none.conf\n", "more.conf": "substituters = http://a"}, substituters: "http://a", keys: 1},
		{name: "included by path", files: map[string]string{"nix.conf": "include /etc/nix/more.conf\n", "more.conf": "substituters = http://a"}, substituters: "http://a", keys: 1},
		{name: "nothing to include", files: map[string]string{"nix.conf": "include none.conf\n"}, err: "no such file"},
		{name: "itself", files: map[string]string{"nix.conf": "include nix.conf\ninclude nix.conf\n"}, err: "includes itself"},
		{name: "no setting", files: map[string]string{"nix.conf": "substituters\n"}, err: `"substituters" is not NAME = VALUE`},
		{name: "large", files: map[string]string{"nix.conf": strings.Repeat("\n", maxNixConf+1)}, err: "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			writeNixConf(t, root, c.files)
			s, err := (&examination{o: Options{Root: root}}).readNixConf()
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("%v, want %q", err, c.err)
				}
				return
			}
			if got := strings.Join(s.substituters, " "); err != nil || got != c.substituters || len(s.keys) != c.keys || s.unsigned != c.unsigned {
				t.Fatalf("%+v, %v", s, err)
			}
		})
	}
}

// TestNixConfAsNix compares what is read with what a real Nix reads.
func TestNixConfAsNix(t *testing.T) {
	nix, err := exec.LookPath("nix")
	if err != nil {
		t.Skip("nix is not installed")
	}
	for _, text := range []string{
		"",
		"substituters = http://a\textra # http://b\nrequire-sigs = no\ntrusted-public-keys =\n",
		"extra-substituters = http://a\nextra-trusted-public-keys = k l\nrequire-sigs = true\n",
		"extra-substituters = http://a\nsubstituters = http://b\n",
		"binary-caches = http://a\nextra-binary-caches = http://b\nbinary-cache-public-keys = k\n",
		"!include none\ninclude more\nextra-substituters = http://b\n",
	} {
		root := t.TempDir()
		dir := writeNixConf(t, root, map[string]string{"nix.conf": "experimental-features = nix-command\n" + text, "more": "substituters = http://m\n"})
		s, err := (&examination{o: Options{Root: root}}).readNixConf()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), nix, "show-config")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + root, "NIX_CONF_DIR=" + dir}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, want := range []string{
			"substituters = " + strings.Join(s.substituters, " "), "trusted-public-keys = " + strings.Join(s.keys, " "),
			fmt.Sprintf("require-sigs = %t", !s.unsigned),
		} {
			if !strings.Contains("\n"+string(out), "\n"+want+"\n") {
				t.Errorf("%q: Nix does not have %q:\n%s", text, want, out)
			}
		}
	}
}

// FuzzNixConf: what is understood says the same when it is written down anew.
func FuzzNixConf(f *testing.F) {
	for _, seed := range []string{
		"substituters = http://127.0.0.1:8181/nix https://cache.nixos.org # both\n",
		"extra-trusted-public-keys = a:b\nrequire-sigs = false",
		"include x\n!include y\n",
		"sandbox =\n= =\nextra- = 1",
		"substituters",
		"binary-caches = a\rextra-binary-caches = b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		errIncluded := errors.New("included")
		noFile := func(string, bool) error { return errIncluded }
		var s, again nixSettings
		if err := s.parse(text, noFile); err != nil {
			return
		}
		printed := "substituters = " + strings.Join(s.substituters, " ") + "\ntrusted-public-keys = " + strings.Join(s.keys, " ") + "\n"
		if s.unsigned {
			printed += "require-sigs = false\n"
		}
		if err := again.parse(printed, noFile); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(s.substituters, again.substituters) || !slices.Equal(s.keys, again.keys) || s.unsigned != again.unsigned {
			t.Fatalf("%+v is %+v", s, again)
		}
	})
}
