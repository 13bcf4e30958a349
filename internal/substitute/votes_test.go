package substitute_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/guixsig"
	"ersatz/narinfo"
)

// voting returns a machine whose policy requires votes of keys 1, 3 and 4.
func voting(t *testing.T, need int, servers ...*fakeServer) *machine {
	t.Helper()
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL)
	}
	m := newMachine(t, urls...)
	keys := []*guixsig.PrivateKey{key(t, 1), key(t, 3), key(t, 4)}
	m.accept(append(keys, key(t, 5))...)
	m.o.Votes = filepath.Join(t.TempDir(), "votes")
	text := fmt.Sprintf("require %d of\n", need)
	for i, k := range keys {
		text += fmt.Sprintf("%s voter%d\n", k.Public(), i)
	}
	must(t, os.WriteFile(m.o.Votes, []byte(text), 0o644))
	return m
}

// otherBuild is another build of the item at the same path.
func otherBuild(t *testing.T, it *item, size int) *item {
	t.Helper()
	b := newItem(t, "item-1.0", tree(t, size), "zstd:3")
	b.path, b.fields.StorePath, b.fields.References = it.path, it.path, it.fields.References
	return b
}

// TestVotes: the build on which two keys agree is installed, wherever in the
// order its servers are, also if one of them has only said so.
func TestVotes(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
	liar, one, two := newServer(t), newServer(t), newServer(t)
	liar.add(t, otherBuild(t, it, 1<<20+1), key(t, 1))
	one.add(t, it, key(t, 3))
	voter := *it
	voter.nars = nil // a narinfo without a URL
	two.add(t, &voter, key(t, 4))
	two.files, two.blocks = map[string][]byte{it.path.Hash + ".narinfo": voter.narinfo(t, key(t, 4))}, nil
	m := voting(t, 2, liar, one, two)
	if got := m.query("have " + it.path.String()); got[0] != it.path.String() {
		t.Errorf("have says %q", got)
	}
	m.wantInstalled(m.substitute(it)[0], it)
	if n := liar.count("POST") + liar.count("GET /nar"); n != 0 {
		t.Errorf("%d requests to the server of the other build", n)
	}
}

// TestTooFewVotes: nothing is installed, and people see who has voted for what
// and who has not, when the daemon asks what there is and when it wants it.
func TestTooFewVotes(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
	other := otherBuild(t, it, 1000)
	down := newServer(t)
	down.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	for name, c := range map[string]struct {
		texts [2][]byte // of two servers; the third is down
		want  []string
	}{
		"one votes":           {[2][]byte{it.narinfo(t, key(t, 1))}, []string{"1 of the 2", ": voter0\n", "no vote by voter1, voter2; no narinfo at http"}},
		"they differ":         {[2][]byte{it.narinfo(t, key(t, 1)), other.narinfo(t, key(t, 3))}, []string{": voter0\n", ": voter1\n", "no vote by voter2"}},
		"no voter":            {[2][]byte{it.narinfo(t, key(t, 5)), it.narinfo(t, key(t, 1))}, []string{"1 of the 2", "no vote by voter1, voter2"}},
		"one key, twice":      {[2][]byte{it.narinfo(t, key(t, 3)), it.narinfo(t, key(t, 3))}, []string{"1 of the 2", ": voter1\n"}},
		"one is unauthorized": {[2][]byte{it.narinfo(t, key(t, 1)), it.narinfo(t, key(t, 9))}, []string{"not in the ACL", "1 of the 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newServer(t), newServer(t)
			for i, s := range []*fakeServer{a, b} {
				s.add(t, it, key(t, 1))
				delete(s.files, it.path.Hash+".narinfo")
				if c.texts[i] != nil {
					s.set(it.path.Hash+".narinfo", c.texts[i])
				}
			}
			for _, verb := range []string{"have", "info", "substitute"} {
				m := voting(t, 2, a, b, down)
				if verb == "substitute" {
					m.wantNothing(m.substitute(it)[0], "not-found")
				} else if got := m.query(verb + " " + it.path.String()); len(got) != 1 || got[0] != "" {
					t.Errorf("%s says %q", verb, got)
				}
				m.wantMessage(append(c.want, "2 of 3 keys have to agree", "no substitute for "+it.path.String(), down.URL+": 500")...)
			}
			if n := a.count("POST") + a.count("GET /nar") + b.count("POST") + b.count("GET /nar"); n != 0 {
				t.Errorf("%d requests for content that does not count", n)
			}
		})
	}
}

// TestVotesReadAnew: a change of the policy, and of the ACL, holds for the next
// request; a policy that cannot be read is one that nothing fulfils.
func TestVotesReadAnew(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1000), "zstd:3")
	one, two := newServer(t), newServer(t)
	one.add(t, it, key(t, 1))
	two.add(t, it, key(t, 3))
	m := voting(t, 2, one, two)
	s := m.open()
	good, err := os.ReadFile(m.o.Votes)
	must(t, err)
	for name, c := range map[string]struct{ text, want string }{
		"three":     {strings.Replace(string(good), "require 2", "require 3", 1), "2 of the 3"},
		"malformed": {strings.Replace(string(good), "require 2", "require two", 1), "line 1"},
		"empty":     {"", "malformed policy of votes"},
	} {
		must(t, os.WriteFile(m.o.Votes, []byte(c.text), 0o644))
		m.wantNothing(m.substituteBy(s, it)[0], "not-found")
		if !strings.Contains(m.messages.String(), c.want) {
			t.Errorf("%s: messages lack %q:\n%s", name, c.want, m.messages.String())
		}
	}
	must(t, os.Remove(m.o.Votes))
	m.wantNothing(m.substituteBy(s, it)[0], "not-found")
	m.wantMessage("no such file")
	must(t, os.WriteFile(m.o.Votes, good, 0o644))
	m.accept(key(t, 1)) // key 3 may not vote any more
	m.wantNothing(m.substituteBy(s, it)[0], "not-found")
	m.wantMessage("not authorized voter1, voter2")
	m.accept(key(t, 1), key(t, 3))
	m.wantInstalled(m.substituteBy(s, it)[0], it)
	if n := one.count("GET /" + it.path.Hash); n != 1 {
		t.Errorf("the narinfo was asked for %d times: votes are not taken from the cache", n)
	}
}

// TestManyTooFew: a long query does not flood people.
func TestManyTooFew(t *testing.T) {
	server := newServer(t)
	var paths []string
	for i := range 8 {
		it := narItem(t, "item-1.0", []byte("nar"), [32]byte{byte(i)})
		server.add(t, it, key(t, 1))
		paths = append(paths, it.path.String())
	}
	m := voting(t, 2, server)
	s := m.open()
	line := "have " + strings.Join(paths, " ") + "\n"
	var out bytes.Buffer
	must(t, s.Query(t.Context(), strings.NewReader(line+line), &out))
	if out.String() != "\n\n" {
		t.Errorf("replies %q", out.String())
	}
	if n := strings.Count(m.messages.String(), "no substitute for "); n != 5 {
		t.Errorf("%d items are explained", n)
	}
	if n := strings.Count(m.messages.String(), "and for 3 more: too few votes\n"); n != 1 {
		t.Errorf("the rest is told %d times:\n%s", n, m.messages.String())
	}
}

// TestVoteWithoutSize: without a signed NarSize there is no vote.
func TestVoteWithoutSize(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1000), "zstd:3")
	size := fmt.Sprintf("NarSize: %d\n", it.fields.NarSize)
	text, err := narinfo.SignGuix(replace(it.fields.Body(), size, ""), key(t, 3), "test")
	must(t, err)
	one, two := newServer(t), newServer(t)
	one.add(t, it, key(t, 1))
	two.set(it.path.Hash+".narinfo", text)
	m := voting(t, 2, one, two)
	m.wantNothing(m.substitute(it)[0], "not-found")
	m.wantMessage("without a signed NarSize", "no vote by voter1, voter2")
}
