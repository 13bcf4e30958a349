package doctor_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"ersatz/internal/doctor"
)

func TestDaemonServers(t *testing.T) {
	m := sound(t, "http://a http://b")
	if got := doctor.DaemonServers(m.root); !slices.Equal(got, []string{"http://a", "http://b"}) {
		t.Errorf("told of two: %q", got)
	}
	m.write("proc/100/cmdline", "guix-daemon\x00--discover\x00", 0o644)
	if got := doctor.DaemonServers(m.root); len(got) == 0 || !slices.Equal(got, doctor.DefaultServers()) {
		t.Errorf("told of none: %q", got)
	}
	if err := os.RemoveAll(filepath.Join(m.root, "proc")); err != nil {
		t.Fatal(err)
	}
	if got := doctor.DaemonServers(m.root); len(got) > 0 {
		t.Errorf("no daemon: %q", got)
	}
}
