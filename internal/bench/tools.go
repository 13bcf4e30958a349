package bench

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// tool is a program that something is measured with or beside.
type tool struct {
	name    string
	pkg     string   // of Debian
	version []string // arguments that make it say its version; none: it is not named
	peer    bool     // measured beside, so that its version is told
}

func tools() []tool {
	return []tool{
		{"nginx", "nginx-light", []string{"-v"}, true},
		{"tar", "tar", []string{"--version"}, true},
		{"wrk", "wrk", nil, false},
		{"zstd", "zstd", []string{"--version"}, true},
	}
}

// absent collects what is left out for want of a program. Its zero value and
// nil are ready to use; nil forgets.
type absent struct {
	mu    sync.Mutex
	notes []string
}

func (a *absent) note(text string) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Contains(a.notes, text) {
		a.notes = append(a.notes, text)
	}
}

// String returns a sentence, empty if all was there.
func (a *absent) String() string {
	if a == nil {
		return ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.notes) == 0 {
		return ""
	}
	return "Left out: " + strings.Join(a.notes, "; ") + "."
}

// have says whether a program is here. If not, the document says which package
// has it; the caller leaves out what needs it.
func (o Options) have(name string) bool {
	if _, err := exec.LookPath(name); err == nil {
		return true
	}
	pkg := name
	for _, t := range tools() {
		if t.name == name {
			pkg = t.pkg
		}
	}
	o.absent.note(fmt.Sprintf("what needs %s (Debian package %s)", name, pkg))
	return false
}

var versionNumber = regexp.MustCompile(`[0-9]+\.[0-9]+[0-9.]*`)

// peerVersions returns the names and versions of the programs that are here
// and are measured beside.
func peerVersions() []string {
	var all []string
	for _, t := range tools() {
		if !t.peer {
			continue
		}
		path, err := exec.LookPath(t.name)
		if err != nil {
			continue
		}
		out, err := exec.Command(path, t.version...).CombinedOutput()
		if v := versionNumber.FindString(string(out)); err == nil && v != "" {
			all = append(all, t.name+" "+v)
		}
	}
	return all
}
