package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// goTool runs the go command as `make build` does for this program.
func goTool(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// TestLinks lists what the program may be made of. Whoever adds to the lists
// makes what runs as guix-daemon's user larger: docs/substitute.md says why it
// is small.
func TestLinks(t *testing.T) {
	own := []string{
		"cmd/ersatz-substitute", "internal/config", "internal/substitute",
		"internal/upstream", "internal/votes", "internal/fetch", "internal/nodeapi",
		"internal/transport/httpclient", "internal/transport/n2r", "internal/transport/ipfs", "internal/block",
		"eris", "nar", "narinfo", "guixsig", "nixsig", "storepath", "internal/compress",
		"nixbase32", "sexp", "internal/lanes", "internal/wire", "internal/durable", "internal/stream",
	}
	modules := []string{
		"golang.org/x/crypto", "golang.org/x/sync", "golang.org/x/sys", "filippo.io/edwards25519",
		"github.com/klauspost/compress", "github.com/ulikunitz/xz",
	}
	// Programs, C, servers of other kinds, and what is known for its weight.
	refused := []string{
		"os/exec", "os/signal", "os/user", "plugin", "runtime/cgo", "net/rpc", "net/smtp", "database/sql",
		"regexp", "text/template", "html/template", "flag", "expvar", "testing",
	}
	var seen []string
	for _, line := range strings.Split(strings.TrimSpace(goTool(t, "list", "-deps", "-f", "{{.ImportPath}} {{with .Module}}{{.Path}}{{end}}", ".")), "\n") {
		pkg, module, _ := strings.Cut(line, " ")
		switch name, ours := strings.CutPrefix(pkg, "ersatz/"); {
		case ours && !slices.Contains(own, name):
			t.Errorf("%s is linked", pkg)
		case ours:
			seen = append(seen, name)
		case module != "" && !slices.Contains(modules, module):
			t.Errorf("%s of %s is linked", pkg, module)
		case module != "":
			seen = append(seen, module)
		case slices.Contains(refused, pkg):
			t.Errorf("%s of the standard library is linked", pkg)
		}
	}
	for _, name := range slices.Concat(own, modules) {
		if !slices.Contains(seen, name) {
			t.Errorf("%s is in the list, and not linked", name)
		}
	}
}

// TestStart bounds what guix-daemon waits for before main, by what does not
// depend on the clock: the size of the program, and what its packages allocate
// to initialize themselves.
func TestStart(t *testing.T) {
	const (
		maxSize   = 9 << 20 // bytes, without symbols
		maxBytes  = 128 << 10
		maxAllocs = 500
	)
	program := filepath.Join(t.TempDir(), "ersatz-substitute")
	goTool(t, "build", "-trimpath", "-ldflags=-s -w", "-o", program, ".")
	fi, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "--check")
	cmd.Env = []string{"ERSATZ_CONFIG=" + os.DevNull, "GODEBUG=inittrace=1"}
	trace, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, trace)
	}
	packages, bytes, allocs := 0, 0, 0
	for _, m := range regexp.MustCompile(`(?m)^init \S+ @.* (\d+) bytes, (\d+) allocs$`).FindAllStringSubmatch(string(trace), -1) {
		packages++
		for i, sum := range []*int{&bytes, &allocs} {
			n, err := strconv.Atoi(m[i+1])
			if err != nil {
				t.Fatal(err)
			}
			*sum += n
		}
	}
	t.Logf("%d bytes; %d packages initialize themselves with %d allocations of %d bytes", fi.Size(), packages, allocs, bytes)
	if packages < 10 {
		t.Errorf("the runtime does not say what it initializes:\n%s", trace)
	}
	if fi.Size() > maxSize || bytes > maxBytes || allocs > maxAllocs {
		t.Errorf("beyond %d bytes, or %d allocations of %d bytes", maxSize, maxAllocs, maxBytes)
	}
}
