package doctor

import (
	"os"
	"path/filepath"
)

// unitDirs are where systemd looks for units, the ones that win last.
func unitDirs() []string {
	return []string{"/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system"}
}

// nodeUnit is the one of a node that systemd starts by.
const nodeUnit = "ersatz-node.socket"

// checkUnits looks at the units of ersatz where systemd runs.
func (e *examination) checkUnits() {
	if !e.exists("/run/systemd/system") {
		return
	}
	const node, publish = nodeUnit, "ersatz-publish.socket"
	switch {
	case !e.installed(node):
		e.add("node's unit", Note, node+" is not installed", "install packaging/ersatz-node.service and .socket; see README.md")
	case !e.enabled(node):
		e.add("node's unit", Note, node+" is not enabled: there is no node after the next start of the machine", startNode)
	default:
		e.add("node's unit", OK, node+" is enabled", "")
	}
	if !e.installed(publish) || !e.enabled(publish) {
		return // a server is not for every machine
	}
	// The unit of a Nix store has a drop-in that needs no key of Guix.
	if e.guix && !e.exists(e.o.PrivateKey) {
		e.add("publish's unit", Bad, publish+" is enabled, but its service cannot start without "+e.o.PrivateKey, "sudo ersatz keygen /etc/guix")
		return
	}
	e.add("publish's unit", OK, publish+" is enabled", "")
}

func (e *examination) exists(name string) bool {
	_, err := os.Lstat(e.path(name))
	return err == nil
}

func (e *examination) installed(unit string) bool {
	for _, dir := range unitDirs() {
		if e.exists(filepath.Join(dir, unit)) {
			return true
		}
	}
	return false
}

func (e *examination) enabled(socket string) bool {
	return e.exists(filepath.Join("/etc/systemd/system/sockets.target.wants", socket))
}
