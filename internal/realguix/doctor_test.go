package realguix

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// TestDoctor asks doctor about a machine in order, and about ones that lack
// something.
func TestDoctor(t *testing.T) {
	w, i := withErsatz(t), makeItems(t)
	addr := w.addr()
	o := wrapped(true)
	o.URLs = []string{"http://" + addr}
	d := w.daemon(o)
	w.check(w.Import(w.ctx, w.key, i.dep))
	s := w.serve(addr, "ersatz", "--cache=/var/cache/ersatz", "--compression=zstd:3")
	w.wantDoctor(0, "/usr/local/bin/ersatz-guix")

	s.Stop()
	w.wantDoctor(7, addr)
	d.Stop()
	w.wantDoctor(7, "no guix-daemon runs")
	w.daemon(DaemonOptions{Unprivileged: true})
	w.wantDoctor(7, "runs without GUIX")
}

// wantDoctor wants an exit status and a word in what doctor says.
func (w *world) wantDoctor(status int, word string) {
	w.t.Helper()
	out, err := w.Run(w.ctx, "ersatz", "doctor")
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	}
	if got != status || !strings.Contains(out, word) {
		w.t.Errorf("doctor: status %d, not %d, or nothing of %q:\n%s", got, status, word, out)
	}
}
