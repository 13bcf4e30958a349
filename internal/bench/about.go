package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// machine says what was measured on what; with peers, also what vector
// instructions there are, and which other programs and modules are measured
// beside.
func machine(ctx context.Context, o Options, peers bool) (string, error) {
	var b strings.Builder
	row := func(name, value string) { fmt.Fprintf(&b, "- %s: %s\n", name, value) }
	var u unix.Utsname
	var si unix.Sysinfo_t
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	if err := unix.Sysinfo(&si); err != nil {
		return "", err
	}
	row("processor", fmt.Sprintf("%s, %d cores", cpuinfo("model name"), runtime.NumCPU()))
	if peers {
		row("vector instructions", vectors(cpuinfo("flags")))
	}
	row("memory", fmt.Sprintf("%.0f GiB", float64(si.Totalram)*float64(si.Unit)/(1<<30)))
	row("kernel", fmt.Sprintf("Linux %s, %s", unix.ByteSliceToString(u.Release[:]), runtime.GOARCH))
	out, err := exec.CommandContext(ctx, o.Ersatz, "version").Output()
	if err != nil {
		return "", fmt.Errorf("%s version: %w", o.Ersatz, err)
	}
	row("ersatz", strings.TrimSpace(string(out)))
	beside := []string{stockVersion(o.Root)}
	if peers {
		beside = append(append(beside, peerVersions()...), moduleVersions()...)
	}
	row("beside it", strings.Join(beside, ", "))
	row("stores", "in memory (tmpfs) unless a row says otherwise; servers and clients on one machine")
	return b.String(), nil
}

// cpuinfo returns a value that /proc/cpuinfo has of the first processor.
func cpuinfo(key string) string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// vectors returns those of a processor's features that the kernels of ersatz,
// of Go and of libzstd choose by.
func vectors(flags string) string {
	of := strings.Fields(flags)
	var found []string
	for _, f := range []string{"avx2", "avx512f", "avx512vl", "avx512bw", "avx512_vbmi", "sha_ni", "bmi2", "asimd", "sha2"} {
		if slices.Contains(of, f) {
			found = append(found, f)
		}
	}
	if len(found) == 0 {
		return "unknown"
	}
	return strings.Join(found, ", ")
}

// moduleVersions returns the modules that are measured beside, with their
// versions.
func moduleVersions() []string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	var all []string
	for _, m := range info.Deps {
		switch m.Path {
		case "github.com/nix-community/go-nix", "golang.org/x/crypto":
			all = append(all, strings.TrimPrefix(m.Path, "github.com/nix-community/")+" "+m.Version)
		}
	}
	return all
}

// stockVersion returns what Debian says of the Guix in a root folder.
func stockVersion(root string) string {
	text, err := os.ReadFile(root + "/var/lib/dpkg/status")
	if err != nil {
		return "unknown"
	}
	_, stanza, ok := strings.Cut("\n"+string(text), "\nPackage: guix\n")
	stanza, _, _ = strings.Cut(stanza, "\n\n")
	if _, version, found := strings.Cut(stanza, "\nVersion: "); ok && found {
		version, _, _ = strings.Cut(version, "\n")
		return "GNU Guix " + version + " of Debian"
	}
	return "unknown"
}
