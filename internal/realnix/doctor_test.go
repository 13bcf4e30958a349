package realnix_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/internal/doctor"
)

// TestDoctor has doctor look at a machine with a real store, whose node has an
// item that a real Nix takes or not, as doctor says.
func TestDoctor(t *testing.T) {
	w := start(t)
	s := w.node("--upstream=" + w.publish(w.keyFlag()).URL)
	for _, c := range []struct {
		name, keys string
		level      doctor.Level
		taken      bool
	}{
		{"trusted", w.public, doctor.OK, true},
		{"another key", "other-1:" + strings.Repeat("A", 43) + "=", doctor.Bad, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := "substituters = " + s.URL + "/nix\ntrusted-public-keys = " + strings.TrimSpace(c.keys) + "\n"
			name := w.Path("/etc/nix/nix.conf")
			w.check(os.MkdirAll(filepath.Dir(name), 0o755))
			w.check(os.WriteFile(name, []byte(conf), 0o644))
			levels := map[string]doctor.Finding{}
			for _, f := range doctor.Examine(t.Context(), doctor.Options{Root: w.Path("")}) {
				levels[f.Check] = f
			}
			if f := levels["nix.conf"]; f.Level != doctor.OK {
				t.Errorf("%+v", f)
			}
			if f := levels["substituter"]; f.Level != doctor.OK {
				t.Errorf("%+v", f)
			}
			if f := levels["nix keys"]; f.Level != c.level {
				t.Errorf("%+v", f)
			}
			if f, ok := levels["acl"]; ok {
				t.Errorf("%+v", f)
			}
			m := w.machine()
			text, err := os.ReadFile(m.Path("/etc/nix.conf"))
			w.check(err)
			w.check(os.WriteFile(m.Path("/etc/nix.conf"), append(text, conf...), 0o644))
			if _, err := m.Run(w.ctx, "nix-store", "--realise", w.item); (err == nil) != c.taken {
				t.Errorf("Nix says %v", err)
			}
			if got := m.Valid(w.ctx, w.item); got != c.taken {
				t.Errorf("Nix has taken it: %t", got)
			}
		})
	}
}
