package bench

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// group is some tables that are measured together.
type group struct {
	name string
	run  func(context.Context, Options) ([]Table, error)
}

func groups() []group {
	return []group{
		{"start", startGroup},
		{"substitute", substituteGroup},
		{"query", queryGroup},
		{"narinfo", narinfoGroup},
		{"bake", bakeGroup},
		{"eris", erisGroup},
		{"kubo", kuboGroup},
		{"transports", transportGroup},
		{"memory", memoryGroup},
	}
}

// Names returns the names of the groups of rows.
func Names() []string {
	var names []string
	for _, g := range groups() {
		names = append(names, g.name)
	}
	return names
}

// Run measures the named group, or all of them for "", and returns a document
// in Markdown.
func Run(ctx context.Context, name string, o Options) (string, error) {
	if o.Runs <= 0 {
		o.Runs = 5
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	begin := time.Now()
	about, err := machine(ctx, o)
	if err != nil {
		return "", err
	}
	var body strings.Builder
	found := false
	for _, g := range groups() {
		if name != "" && name != g.name {
			continue
		}
		found = true
		o.Log.InfoContext(ctx, "measuring", slog.String("group", g.name))
		tables, err := g.run(ctx, o)
		if err != nil {
			return "", fmt.Errorf("measuring %s: %w", g.name, err)
		}
		for _, t := range tables {
			body.WriteString("\n" + t.Markdown())
		}
	}
	if !found {
		return "", fmt.Errorf("no group %q: the groups are %s", name, strings.Join(Names(), ", "))
	}
	return fmt.Sprintf(`# Benchmarks

Made by `+"`make bench`"+` on %s, in %s. Trust the ratios: both sides were measured in turns on the same
machine. Figures are medians of %d, with the least and the greatest; "ahead" says how many times better the median is:
above 1, ersatz is.

%s%s`, begin.UTC().Format("2 January 2006"), time.Since(begin).Round(time.Second), o.Runs, about, body.String()), nil
}

// machine says what was measured on what.
func machine(ctx context.Context, o Options) (string, error) {
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
	row("processor", fmt.Sprintf("%s, %d cores", cpuModel(), runtime.NumCPU()))
	row("memory", fmt.Sprintf("%.0f GiB", float64(si.Totalram)*float64(si.Unit)/(1<<30)))
	row("kernel", fmt.Sprintf("Linux %s, %s", unix.ByteSliceToString(u.Release[:]), runtime.GOARCH))
	out, err := exec.CommandContext(ctx, o.Ersatz, "version").Output()
	if err != nil {
		return "", fmt.Errorf("%s version: %w", o.Ersatz, err)
	}
	row("ersatz", strings.TrimSpace(string(out)))
	row("beside it", stockVersion(o.Root))
	row("stores", "in memory (tmpfs) unless a row says otherwise; servers and clients on one machine")
	return b.String(), nil
}

// cpuModel returns the name of the processor.
func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
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
