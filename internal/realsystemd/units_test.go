package realsystemd

import (
	"os"
	"strings"
	"testing"
)

// installUnits installs the programs and the units by hand, as README.md says.
func (w *world) installUnits() {
	w.t.Helper()
	for _, name := range []string{"ersatz", "ersatz-substitute"} {
		w.copy(program(w.t, name), "/usr/local/bin/"+name, 0o755)
	}
	w.copy(packaging+"/ersatz-guix", "/usr/local/bin/ersatz-guix", 0o755)
	w.copy(packaging+"/guix-daemon-ersatz.conf", "/etc/systemd/system/guix-daemon.service.d/ersatz.conf", 0o644)
	w.copy(packaging+"/ersatz.sysusers", "/etc/sysusers.d/ersatz.conf", 0o644)
	for _, name := range []string{"ersatz-node.service", "ersatz-node.socket", "ersatz-publish.service", "ersatz-publish.socket"} {
		w.copy(packaging+"/"+name, "/etc/systemd/system/"+name, 0o644)
	}
	w.run("systemd-sysusers")
	w.run("systemctl", "daemon-reload")
}

// nodeOptions has the node ask the machine's own server.
func (w *world) nodeOptions() {
	w.t.Helper()
	options := "NODE_OPTIONS=\"--upstream=http://127.0.0.1:8080 --acl=/etc/guix/acl\"\n"
	if err := w.WriteFile("/etc/default/ersatz-node", []byte(options), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// publishOptions has the server open each network that asks nothing of the
// machine. What is public is given nothing.
func (w *world) publishOptions() {
	w.t.Helper()
	options := "PUBLISH_OPTIONS=\"--cache=/var/cache/ersatz --ttl=30d --negative-ttl=1h --bake-roots=/etc/ersatz/roots" +
		" --serve=coap+tcp://127.0.0.1:5683 --serve=coap://127.0.0.1:5683" +
		" --serve=ipfs:?listen=/ip4/127.0.0.1/tcp/4001&listen=/ip4/127.0.0.1/udp/4001/quic-v1&dht=off" +
		" --serve=bittorrent:?listen=127.0.0.1:6881&dht=off --metrics-listen=127.0.0.1:9101\"\n"
	for name, text := range map[string]string{"/etc/default/ersatz-publish": options, "/etc/ersatz/roots": "# none\n"} {
		if err := w.WriteFile(name, []byte(text), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestUnits has all units do their work in their sandboxes: the stock
// guix-daemon gets an item from the node, which gets it from publish. The first
// requests start both.
func TestUnits(t *testing.T) {
	w := boot(t)
	w.installUnits()
	w.stock()
	w.nodeOptions()
	w.publishOptions()
	w.run("systemctl", "start", "ersatz-node.socket", "ersatz-publish.socket")
	if out, err := w.Run(w.ctx, "systemctl", "is-active", "ersatz-node", "ersatz-publish"); err == nil {
		t.Errorf("they run before anybody has asked: %s", out)
	}
	w.travel("hello")
	for _, unit := range []string{"ersatz-node", "ersatz-publish"} {
		status := w.run("sh", "-ec", "cat /proc/$(systemctl show --value --property=MainPID "+unit+")/status")
		has(t, status, "NoNewPrivs:\t1\n", "Seccomp:\t2\n", "CapBnd:\t0000000000000000\n")
		if strings.Contains(status, "Uid:\t0") {
			t.Errorf("%s runs as root", unit)
		}
	}
	if metrics := w.get("http://127.0.0.1:9101/metrics", "\nersatz_bake_cpu_seconds_total "); strings.Contains(metrics, "\nersatz_bake_cpu_seconds_total 0\n") {
		t.Error("no process of its own has baked the item")
	}

	w.run("systemctl", "stop", "ersatz-node.socket", "ersatz-publish.socket", "ersatz-node", "ersatz-publish")
	if out := w.run("systemctl", "show", "--property=Result", "ersatz-node", "ersatz-publish"); strings.Count(out, "Result=success") != 2 {
		t.Errorf("they end with %s", out)
	}
	// To the end: a process that bakes and is not at the lowest priority says so there.
	journal := w.run("journalctl", "--no-pager", "--unit=ersatz-node", "--unit=ersatz-publish", "--output=cat")
	has(t, journal, "store=coap+tcp:", "store=coap:", "network=ipfs", "network=bittorrent")
	for _, word := range []string{"level=ERROR", "level=WARN", "as root"} {
		if strings.Contains(journal, word) {
			t.Errorf("%s in\n%s", word, journal)
		}
	}
	if _, err := os.Lstat(w.Path("/run/ersatz/node.sock")); err == nil {
		t.Error("the node's socket is left: ersatz-substitute would ask it")
	}
}

// TestSandbox wants systemd's own count of what a service may do to stay low:
// 0 is nothing, 10 is all.
func TestSandbox(t *testing.T) {
	w := boot(t)
	w.installUnits()
	for _, unit := range []string{"ersatz-node.service", "ersatz-publish.service"} {
		// The threshold is in tenths.
		w.run("systemd-analyze", "security", "--no-pager", "--threshold=18", unit)
	}
	// The units as files, with nothing that systemd does not know.
	out, err := w.Run(w.ctx, "systemd-analyze", "verify", "--man=no", "ersatz-node.service", "ersatz-node.socket",
		"ersatz-publish.service", "ersatz-publish.socket", "guix-daemon.service")
	if err != nil || strings.Contains(out, "ersatz") {
		t.Errorf("%v\n%s", err, out)
	}
}
