package netlab

import (
	"context"
	"os/exec"
)

// AvahiReady is in the line by which Host.Avahi says that it has begun.
const AvahiReady = "Server startup complete"

// AvahiPrograms returns what Host.Avahi starts, beside what Missing looks for.
func AvahiPrograms() []string { return []string{"avahi-daemon", "dbus-daemon", "unshare", "mount"} }

// Both daemons on a bus of their own, under a /run of their own.
const avahiScript = `set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus /run/avahi-daemon
cat >/run/bus.conf <<END
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>${2:+<listen>unix:path=$2</listen>}
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
END
cat >/run/avahi.conf <<END
[server]
host-name=$1
allow-interfaces=eth0
[wide-area]
enable-wide-area=no
[rlimits]
END
dbus-daemon --config-file=/run/bus.conf --nofork --nopidfile >&2 &
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
exec avahi-daemon --no-drop-root --no-chroot --no-rlimits --no-proc-title -f /run/avahi.conf 2>&1`

// Avahi returns a command that runs an avahi-daemon in the host, under its name,
// until it is killed. Its D-Bus listens at the file socket as well, unless that
// is "".
func (h *Host) Avahi(ctx context.Context, socket string) *exec.Cmd {
	return h.Command(ctx, "unshare", "-m", "sh", "-c", avahiScript, "sh", h.name, socket)
}
