package kubotest

import (
	"os"
	"testing"
)

// StartDHT is Start for a daemon that is a server of the DHT, and listens on all
// addresses of the network namespace that the test made for itself: the DHT passes
// over those of loopback.
func StartDHT(t testing.TB) *Daemon {
	t.Helper()
	binary := os.Getenv(EnvBinary)
	if binary == "" {
		t.Skipf("%s does not name an ipfs program (make check builds one)", EnvBinary)
	}
	d, err := prepare(t.Context(), binary, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d.Run(t, "config", "Routing.Type", "dhtserver")
	d.Run(t, "config", "--json", "Addresses.Swarm", `["/ip4/0.0.0.0/tcp/0"]`)
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.stopWith(t)
	return d
}
