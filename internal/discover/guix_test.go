package discover

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"testing"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/bench/netlab"
	"ersatz/internal/realguix"
)

// guixSite is a site on whose first host a machine with a stock Guix talks to
// the avahi-daemon.
type guixSite struct {
	*site
	*realguix.Machine
}

func newGuixSite(t *testing.T) *guixSite {
	t.Helper()
	root := os.Getenv(realguix.EnvRoot)
	if root == "" {
		t.Skipf("%s does not name a folder with a Guix (make check makes one)", realguix.EnvRoot)
	}
	if _, err := os.Stat(root + "/usr/share/guile/site/3.0/avahi.scm"); errors.Is(err, fs.ErrNotExist) {
		t.Skipf("%s has no guile-avahi: it was made by an older scripts/guix-root.sh", root)
	}
	g := &guixSite{}
	g.site = newSiteWith(t, func(a *netlab.Host) string {
		m, err := realguix.Start(root, realguix.Options{Net: a.Netns()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
		if err := os.MkdirAll(m.Path("/run/dbus"), 0o755); err != nil {
			t.Fatal(err)
		}
		g.Machine = m
		return m.Path("/run/dbus/system_bus_socket")
	})
	return g
}

// TestDiscovered wants "guix discover" to list what is announced here, as long
// as it is.
func TestDiscovered(t *testing.T) {
	s := newGuixSite(t)
	s.start(s.Command(s.ctx, "guix", "discover", "--cache=/var/discover"))
	at := func(want string) {
		t.Helper()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			text, err := os.ReadFile(s.Path("/var/discover/discover/publish"))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if err == nil && string(text) == want {
				return
			}
			select {
			case <-tick.C:
			case <-s.ctx.Done():
				t.Fatalf("guix discover lists %q, not %q", text, want)
			}
		}
	}
	stop := s.announce(s.b, Service{Kind: Publish, Instance: InstanceOf("beta"), Listen: netip.MustParseAddrPort("[::]:8080")})
	at(fmt.Sprintf("http://%s:8080\n", s.b.Addr()))
	stop()
	at("")
}

// TestDiscovers wants what "guix publish --advertise" announces to be listed.
func TestDiscovers(t *testing.T) {
	s := newGuixSite(t)
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Trust(key, key.Public()); err != nil {
		t.Fatal(err)
	}
	d, err := s.StartDaemon(s.ctx, realguix.DaemonOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)
	b := s.browser(s.b, Options{})
	s.start(s.Command(s.ctx, "guix", "publish", "--advertise", "--port=8085"))
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	s.list(b, fmt.Sprintf("publish %s http://%s:8085", InstanceOf(host), s.a.Addr()))
}
