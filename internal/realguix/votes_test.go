package realguix

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/guixsig"
)

const votesPath = "/etc/ersatz/votes"

// origins are three builders with keys of their own: two on the client's
// machine, who have built alike, and one elsewhere, whose build differs.
type origins struct {
	liar, one, two *Server
}

// urls names the liar first: its build would be taken if one key were enough.
func (o origins) urls() []string { return []string{o.liar.URL, o.one.URL, o.two.URL} }

// withOrigins starts them for an item. All their keys are in the machine's ACL,
// and two of the three have to agree by its policy.
func withOrigins(t *testing.T, o DaemonOptions) (*world, Item, origins) {
	t.Helper()
	w, item := withErsatz(t), makeItems(t).big
	keys := map[string]*guixsig.PrivateKey{"one": w.key, "two": testKey(t, 2), "liar": testKey(t, 3)}
	policy := "require 2 of\n"
	var public []guixsig.PublicKey
	for _, name := range []string{"one", "two", "liar"} {
		public = append(public, keys[name].Public())
		policy += fmt.Sprintf("%s %s\n", keys[name].Public(), name)
	}
	w.check(w.Trust(w.key, public...))
	w.check(w.WriteFile(votesPath, []byte(policy), 0o644))
	w.daemon(o)
	w.check(w.Import(w.ctx, w.key, item))

	other := *withErsatz(t)
	other.key = keys["liar"]
	other.check(other.Trust(other.key, other.key.Public()))
	other.daemon(DaemonOptions{})
	another := item
	another.Tree = filepath.Join(t.TempDir(), "big")
	w.check(MakeFile(another.Tree, 4, 6<<20))
	other.check(other.Import(other.ctx, other.key, another))
	servers := map[string]*Server{}
	for name, machine := range map[string]*world{"one": w, "two": w, "liar": &other} {
		at := "/etc/keys-" + name + "/signing-key"
		w.check(machine.WriteFile(at+".pub", keys[name].Public().Text(), 0o644))
		w.check(machine.WriteFile(at+".sec", keys[name].Text(), 0o400))
		addr := w.addr()
		servers[name] = machine.serve(addr, "ersatz", "--cache=/var/cache/"+name, "--compression=zstd:3",
			"--public-key="+at+".pub", "--private-key="+at+".sec")
		w.baked(addr, item)
	}
	return w, item, origins{servers["liar"], servers["one"], servers["two"]}
}

// TestVotes: the build on which two of three builders agree is installed, also
// when the third is down; with two down nothing is, and people see why.
func TestVotes(t *testing.T) {
	w, item, o := withOrigins(t, wrapped(true))
	w.check(w.WriteFile("/etc/ersatz/config", []byte("votes = "+votesPath+"\n"), 0o644))
	owner := w.uid("guix-daemon")
	install := func() {
		t.Helper()
		w.remove(item)
		w.build(item, o.urls()...)
		w.wantInstalled(item, owner)
	}
	refuse := func(want ...string) {
		t.Helper()
		w.remove(item)
		out := w.build(item, o.urls()...)
		w.wantAbsent(item)
		for _, part := range want {
			if !strings.Contains(out, part) {
				t.Errorf("guix build does not say %q:\n%s", part, out)
			}
		}
	}
	install()
	o.liar.Stop()
	install()
	o.two.Stop()
	refuse("too few votes: 1 of the 2 that are needed", ": one\n", "no vote by two, liar", o.two.URL+": ", "connection refused")

	// Neither a policy that cannot be read, nor a configuration that cannot,
	// opens the door: the real guix is not asked instead.
	w.check(w.WriteFile(votesPath, []byte("require two of\n"), 0o644))
	refuse("malformed policy of votes: line 1")
	w.check(w.WriteFile("/etc/ersatz/config", []byte("votes = "+votesPath+"\nnonsense\n"), 0o644))
	refuse("line 2")
	w.check(w.WriteFile("/etc/ersatz/config", []byte("# none\n"), 0o644))
	install()
}

// TestVotesOfNode: a node withholds from stock guix what lacks votes.
func TestVotesOfNode(t *testing.T) {
	w, item, o := withOrigins(t, DaemonOptions{})
	addr := w.addr()
	args := []string{"--socket=none", "--votes=" + votesPath}
	for _, url := range o.urls() {
		args = append(args, "--upstream="+url)
	}
	n := w.node(addr, args...)
	w.remove(item)
	w.wantFrom(w.build(item, "http://"+addr), "http://"+addr)
	w.wantInstalled(item, 0)

	n.Stop()
	o.one.Stop() // the liar and the other do not agree
	w.check(w.ForgetNarinfos())
	_, err := w.Run(w.ctx, "rm", "-r", "/var/lib/ersatz-node")
	w.check(err)
	addr = w.addr()
	w.node(addr, args...)
	w.remove(item)
	w.build(item, "http://"+addr)
	w.wantAbsent(item)
	status, _, err := get(w.ctx, "http://"+addr+"/"+item.Path.Hash+".narinfo")
	if err != nil || status != http.StatusNotFound {
		t.Errorf("status %d, %v", status, err)
	}
}
