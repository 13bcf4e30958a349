// Package doctor looks at everything that ersatz depends on and says what is
// missing and what to do about it: keys, the policy of votes, units, the node,
// the setting of guix-daemon and of Nix, servers, the IPFS daemon, clock, disk.
// It changes nothing but for a temporary file in the state folder, which it
// removes.
package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ersatz/internal/nodeapi"
	"ersatz/internal/transport/httpclient"
	"ersatz/storepath"
)

// Level says how bad a finding is.
type Level int

// The levels of a finding.
const (
	OK   Level = iota // as it should be
	Note              // worth knowing; not needed by all
	Bad               // substitutes will not work as they should
)

// String returns "ok", "note" or "BAD".
func (l Level) String() string { return [...]string{"ok", "note", "BAD"}[l] }

// MarshalText returns the level in lower case.
func (l Level) MarshalText() ([]byte, error) { return []byte(strings.ToLower(l.String())), nil }

// Finding is the outcome of one check.
type Finding struct {
	Check  string `json:"check"`            // such as "acl"
	Level  Level  `json:"level"`            // "ok", "note" or "bad"
	Text   string `json:"text"`             // what was found
	Advice string `json:"advice,omitempty"` // what to do; "" if nothing is to be done
}

// Options say where to look. The zero Options looks at an ordinary machine.
type Options struct {
	// Root is put before every path that is read. Default "/".
	Root string
	// ACL is the access control list. Default /etc/guix/acl.
	ACL string
	// PublicKey and PrivateKey are what publish signs with. Default
	// /etc/guix/signing-key.pub and .sec.
	PublicKey, PrivateKey string
	// State is the state folder of substitute. Default /var/lib/ersatz.
	State string
	// Store is the folder of store items. Default /gnu/store.
	Store string
	// Servers are asked instead of those of the running daemon.
	Servers []string
	// IPFS is the address of a Kubo RPC; "" if none is used.
	IPFS string
	// Node is the Unix socket of the node; "" if none is asked.
	Node string
	// NodeState is the state folder of a node that does not answer. Default
	// /var/lib/ersatz-node.
	NodeState string
	// Votes is the policy of votes; "" if there is none.
	Votes string
	// Version is compared with the node's. Default: it is not.
	Version string
	// Timeout bounds each request. Default 5 s.
	Timeout time.Duration
	// Client sends the requests. Default: one that checks no certificates,
	// as substitutes are fetched.
	Client *http.Client
	// Now returns the time. Default time.Now.
	Now func() time.Time
}

func (o Options) defaults() Options {
	for _, d := range []struct {
		field *string
		value string
	}{
		{&o.Root, "/"}, {&o.ACL, "/etc/guix/acl"}, {&o.PublicKey, "/etc/guix/signing-key.pub"},
		{&o.PrivateKey, "/etc/guix/signing-key.sec"}, {&o.State, "/var/lib/ersatz"}, {&o.Store, storepath.Guix},
		{&o.NodeState, "/var/lib/ersatz-node"},
	} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Client == nil {
		o.Client = httpclient.New(httpclient.Options{Idle: o.Timeout})
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// examination is one run.
type examination struct {
	o         Options
	guix, nix bool // which of them the machine has
	daemon    daemon
	node      nodeapi.Status // zero if it does not answer
	findings  []Finding
}

// Examine makes all checks of what the machine has: of Guix, of Nix or of both.
// They are independent: none is left out because another failed.
func Examine(ctx context.Context, o Options) []Finding {
	e := &examination{o: o.defaults()}
	e.checkMachine()
	if e.guix {
		e.checkACL()
		e.checkVotes()
		e.checkSigningKey()
	}
	e.checkUnits()
	e.checkNode(ctx)
	if e.guix {
		e.checkDaemon()
	}
	var answers []answer
	if e.guix || len(e.o.Servers) > 0 {
		answers = e.checkServers(ctx)
	}
	if e.nix {
		answers = append(answers, e.checkNix(ctx)...)
	}
	e.checkClock(answers)
	if e.guix {
		e.checkIPFS(ctx)
		e.checkState()
		e.checkStore()
	}
	return e.findings
}

// checkMachine looks for traces of Guix and of Nix. What leaves none need not be
// in order, and one line says that it is not looked at.
func (e *examination) checkMachine() {
	e.daemon = e.findDaemon()
	guix := []string{e.o.Store, "/var/guix/daemon-socket/socket", "/var/guix/profiles"}
	nix := []string{nixStore, nixSocket, "/nix/var/nix/profiles"}
	e.guix = e.daemon.pid != 0 || e.installed(guixUnit) || slices.ContainsFunc(guix, e.exists)
	e.nix = e.installed(nixUnit) || slices.ContainsFunc(nix, e.exists)
	const check = "machine"
	noGuix := "no " + strings.Join(append(guix, guixUnit), ", ")
	noNix := "no " + strings.Join(append(nix, nixUnit), ", ")
	switch {
	case !e.guix && !e.nix && e.enabled(nodeUnit):
		e.add(check, Note, "there is neither Guix nor Nix: the node has only others to serve", "")
	case !e.guix && !e.nix:
		e.add(check, Bad, "there is neither Guix nor Nix: "+noGuix+"; "+noNix, "install one of them: nothing here takes substitutes")
	case !e.guix:
		e.add(check, Note, "Guix is not looked at: "+noGuix, "")
	case !e.nix:
		e.add(check, Note, "Nix is not looked at: "+noNix, "")
	default:
		e.add(check, OK, "there are Guix and Nix", "")
	}
}

// Faults returns how many findings are Bad.
func Faults(findings []Finding) int {
	n := 0
	for _, f := range findings {
		if f.Level == Bad {
			n++
		}
	}
	return n
}

// Print writes findings as text, with advice below what it belongs to.
func Print(w io.Writer, findings []Finding) error {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "%-5s%s: %s\n", f.Level, f.Check, f.Text)
		if f.Advice != "" {
			for line := range strings.Lines(f.Advice) {
				fmt.Fprintf(&b, "       %s\n", strings.TrimSuffix(line, "\n"))
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// PrintJSON writes findings as one JSON array.
func PrintJSON(w io.Writer, findings []Finding) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(findings)
}

func (e *examination) add(check string, level Level, text, advice string) {
	e.findings = append(e.findings, Finding{check, level, text, advice})
}

// path returns where p is under the root.
func (e *examination) path(p string) string { return filepath.Join(e.o.Root, p) }
