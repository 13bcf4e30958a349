// Package realnix runs a real, stock Nix on throw-away stores, for tests. Each
// machine is a folder whose nix/ is bound to /nix in a mount namespace of each
// command's own, so that its items really lie in /nix/store. Its network is the
// host's.
//
// It needs root, unshare(1) and the programs of Debian's nix-bin.
package realnix

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Missing returns what is missing to run machines, "" if nothing is.
func Missing() string {
	if os.Getuid() != 0 {
		return "not root"
	}
	for _, name := range []string{"nix", "nix-store", "nix-build", "nix-daemon", "unshare"} {
		if _, err := exec.LookPath(name); err != nil {
			return name + " is not installed"
		}
	}
	if out, err := exec.Command("unshare", "-m", "true").CombinedOutput(); err != nil {
		return fmt.Sprintf("no namespaces for mounts: %v: %s", err, out)
	}
	return ""
}

// Machine is a store with its state, and what a user of it has.
type Machine struct{ dir string }

// config is what a machine needs to work without a network. It requires
// signatures, which is Nix's default.
const config = `experimental-features = nix-command
sandbox = false
build-users-group =
substituters =
require-sigs = true
`

// New makes a machine in an empty folder, with an empty store. Others than root
// must be able to reach the folder.
func New(dir string) (*Machine, error) {
	m := &Machine{dir}
	// /nix of the host is where machines' folders are bound to; Debian's package
	// does not have it.
	for _, d := range []string{"/nix", m.Path("/nix/store"), m.Path("/nix/var/nix"), m.Path("/etc"), m.Path("/home")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	return m, os.WriteFile(filepath.Join(dir, "etc", "nix.conf"), []byte(config), 0o644)
}

// Path returns where the host sees a path below /nix.
func (m *Machine) Path(p string) string { return m.dir + p }

// enter binds a machine's folder to /nix for a command and what it starts.
const enter = `mount --bind "$1/nix" /nix; cd "$1/home"; shift; exec "$@"`

// Command returns a command that runs in the machine, as root, with an
// environment of its own. When ctx is done it is killed.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"-m", "--", "sh", "-ec", enter, "sh", m.dir, name}, args...)...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(m.dir, "home"), "USER=root", "LC_ALL=C.UTF-8",
		"NIX_CONF_DIR=" + filepath.Join(m.dir, "etc"), "NIX_REMOTE=local",
	}
	return cmd
}

// Run runs a command in the machine and returns what it prints on standard
// output. The error has standard error in it.
func (m *Machine) Run(ctx context.Context, name string, args ...string) (string, error) {
	var out, log strings.Builder
	cmd := m.Command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, log.String())
	}
	return out.String(), nil
}

// Build evaluates an expression of the Nix language, builds the derivation that
// it gives, and returns the path of its output.
func (m *Machine) Build(ctx context.Context, expression string) (string, error) {
	out, err := m.Run(ctx, "nix-build", "--no-out-link", "--expr", expression)
	return strings.TrimSpace(out), err
}

// Valid reports whether a path is valid in the machine's store.
func (m *Machine) Valid(ctx context.Context, path string) bool {
	_, err := m.Run(ctx, "nix-store", "--check-validity", path)
	return err == nil
}

// Hash returns the hash of a valid item's nar as its database has it, and
// after a check of its files.
func (m *Machine) Hash(ctx context.Context, path string) (string, error) {
	if _, err := m.Run(ctx, "nix-store", "--verify-path", path); err != nil {
		return "", err
	}
	out, err := m.Run(ctx, "nix-store", "--query", "--hash", path)
	return strings.TrimSpace(out), err
}
