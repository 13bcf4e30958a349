package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

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
			dir := filepath.Join(root, filepath.Dir(nixConf))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for name, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
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
