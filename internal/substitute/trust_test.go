package substitute_test

import (
	"bytes"
	"crypto/sha256"
	"os"
	"strings"
	"testing"

	"ersatz/narinfo"
	"ersatz/nixbase32"
)

func base32(h [32]byte) string    { return nixbase32.Encode(h[:]) }
func sha256Sum(s string) [32]byte { return sha256.Sum256([]byte(s)) }
func replace(text []byte, old, new string) []byte {
	return bytes.Replace(text, []byte(old), []byte(new), 1)
}

// TestRefused: nothing is installed, nothing stays, and people see why.
func TestRefused(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
	older := newItem(t, "item-0.9", tree(t, 1000), "zstd:3")
	good := it.narinfo(t, key(t, 1))
	for _, c := range []struct {
		name string
		text []byte
		want string
	}{
		{"unsigned", it.narinfo(t, nil), "unsigned"},
		{"key not in the ACL", it.narinfo(t, key(t, 2)), "not in the ACL"},
		{"another item's", older.narinfo(t, key(t, 1)), "of another store path"},
		{"hash changed", replace(good, "NarHash: sha256:", "NarHash: sha256:0"), "NarHash"},
		{"size changed", replace(good, "NarSize: ", "NarSize: 1"), "changed after it was signed"},
		{"URN changed", replace(good, "ERIS: urn:eris:B", "ERIS: urn:eris:C"), "changed after it was signed"},
		{"URN removed", replace(good, "ERIS: "+it.fields.ERIS+"\n", ""), "changed after"},
		{"signature cut", replace(good, "Signature: 1;test;", "Signature: 1;test;AAAA"), ""},
		{"no narinfo", []byte("<html>"), "malformed"},
		{"empty", nil, "malformed"},
		{"too long", bytes.Repeat([]byte("X: y\n"), narinfo.MaxSize/5+1), "bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := newServer(t)
			server.add(t, it, key(t, 1))
			server.set(it.path.Hash+".narinfo", c.text)
			m := newMachine(t, server.URL)
			m.wantNothing(m.substitute(it)[0], "not-found")
			m.wantMessage(c.want, server.URL)
			if got := m.query("info " + it.path.String() + " "); len(got) != 1 || got[0] != "" {
				t.Errorf("info says %q", got)
			}
			if n := server.count("POST") + server.count("GET /nar"); n != 0 {
				t.Errorf("%d requests for untrusted content", n)
			}
		})
	}
}

// TestRefusedThenNext: what is wrong at one server does not hide another.
func TestRefusedThenNext(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
	bad, good := newServer(t), newServer(t)
	bad.add(t, it, key(t, 2))
	bad.set(it.path.Hash+".narinfo", newItem(t, "older-1.0", tree(t, 10), "none").narinfo(t, key(t, 1)))
	good.add(t, it, key(t, 1))
	m := newMachine(t, bad.URL, good.URL)
	m.wantInstalled(m.substitute(it)[0], it)
	if n := bad.count("POST") + bad.count("GET /nar"); n != 0 {
		t.Errorf("%d requests to the server whose narinfo was refused", n)
	}
}

func TestACLIsReadAnew(t *testing.T) {
	first := newItem(t, "first-1.0", tree(t, 1000), "zstd:3")
	second := newItem(t, "second-1.0", tree(t, 2000), "zstd:3")
	server := newServer(t)
	server.add(t, first, key(t, 1))
	server.add(t, second, key(t, 1))
	m := newMachine(t, server.URL)
	// The cache is warm for both.
	if got := m.query("have " + first.path.String() + " " + second.path.String()); len(got) != 3 {
		t.Fatalf("have says %q", got)
	}
	s := m.open()
	m.wantInstalled(m.substituteBy(s, first)[0], first)
	m.accept(key(t, 2))
	m.wantNothingBut(m.substituteBy(s, second)[0], "not-found", first)
	m.wantMessage("not in the ACL")
	if n := server.count("GET /" + second.path.Hash); n != 1 {
		t.Errorf("the narinfo was asked for %d times: the cache was not warm", n)
	}
	m.accept(key(t, 2), key(t, 1))
	if reply := m.substituteBy(s, second)[0]; !strings.HasPrefix(reply, "success") {
		t.Errorf("reply %q after the key was accepted again", reply)
	}
}

func TestNoACL(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1000), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	must(t, os.Remove(m.o.ACL))
	m.wantNothing(m.substitute(it, it)[0], "not-found")
	m.wantMessage(m.o.ACL, "no such file")
	if n := strings.Count(m.log.String(), "level=ERROR"); n != 1 {
		t.Errorf("the log says it %d times", n)
	}
	for _, text := range []string{"", "(acl (entry"} {
		must(t, os.WriteFile(m.o.ACL, []byte(text), 0o644))
		m.wantNothing(m.substitute(it)[0], "not-found")
		m.wantMessage("keys that are accepted: " + m.o.ACL + ":")
	}
}

// TestAgreeingServer: a server without an accepted key may give the nar of an
// item that an authorized narinfo is of, but its URN counts for nothing.
func TestAgreeingServer(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
	signer, mirror := newServer(t), newServer(t)
	other := newItem(t, "other-1.0", tree(t, 3<<20), "zstd:3")
	urn := it.fields.ERIS
	it.fields.ERIS = other.fields.ERIS
	mirror.add(t, it, key(t, 2))
	mirror.blocks = other.blocks
	it.fields.ERIS = urn
	signer.add(t, it, key(t, 1))
	clear(signer.blocks)
	delete(signer.files, it.nars[0].URL)

	m := newMachine(t, mirror.URL, signer.URL)
	m.wantInstalled(m.substitute(it)[0], it)
	if want := mirror.URL + "/" + it.nars[0].URL; m.source() != want {
		t.Errorf("source is %q, want %q", m.source(), want)
	}
	if n := mirror.count("POST"); n != 0 {
		t.Errorf("the unauthorized server was asked for blocks %d times", n)
	}
}

func TestDisagreeingServer(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
	signer, mirror := newServer(t), newServer(t)
	signer.add(t, it, key(t, 1))
	clear(signer.blocks)
	delete(signer.files, it.nars[0].URL)
	it.fields.References = nil
	mirror.add(t, it, key(t, 2))
	m := newMachine(t, signer.URL, mirror.URL)
	m.wantNothing(m.substitute(it)[0], "not-found")
	if n := mirror.count("GET /nar"); n != 0 {
		t.Errorf("%d nars of a server that disagrees", n)
	}
}

func TestFirstAuthorizedDecides(t *testing.T) {
	// Two builds of one path, both signed by accepted keys.
	a := newItem(t, "item-1.0", tree(t, 1<<20), "zstd:3")
	b := newItem(t, "item-1.0", tree(t, 1<<20+1), "zstd:3")
	b.path, b.fields.StorePath, b.fields.References = a.path, a.path, a.fields.References
	one, two := newServer(t), newServer(t)
	one.add(t, a, key(t, 1))
	two.add(t, b, key(t, 3))
	m := newMachine(t, one.URL, two.URL)
	m.accept(key(t, 1), key(t, 3))
	m.wantInstalled(m.substitute(a)[0], a)
	if n := two.count("GET /nar") + two.count("POST"); n != 0 {
		t.Errorf("%d requests to the server of the other build", n)
	}
	m = newMachine(t, two.URL, one.URL)
	m.accept(key(t, 1), key(t, 3))
	m.wantInstalled(m.substitute(b)[0], b)
}

// TestOtherBuild wants the second of two authorized builds when the first
// cannot be had, but not one with other references: the daemon was told of
// those of the first.
func TestOtherBuild(t *testing.T) {
	a := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
	b := newItem(t, "item-1.0", tree(t, 1<<20+1), "zstd:3")
	b.path, b.fields.StorePath, b.fields.References = a.path, a.path, a.fields.References
	one, two := newServer(t), newServer(t)
	one.add(t, a, key(t, 1))
	delete(one.files, a.nars[0].URL)
	one.blocks = nil
	two.add(t, b, key(t, 3))
	m := newMachine(t, one.URL, two.URL)
	m.accept(key(t, 1), key(t, 3))
	m.wantInstalled(m.substitute(b)[0], b)

	b.fields.References = append(b.fields.References, "00000000000000000000000000000000-more")
	two.add(t, b, key(t, 3))
	m = newMachine(t, one.URL, two.URL)
	m.accept(key(t, 1), key(t, 3))
	m.wantNothing(m.substitute(b)[0], "not-found")
	m.wantMessage("differs from the narinfo that was chosen")
}

// TestNoNarSize: without a signed bound, no blocks; NarHash decides of nars.
func TestNoNarSize(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
	var body []byte
	for line := range bytes.Lines(it.fields.Body()) {
		if !bytes.HasPrefix(line, []byte("NarSize:")) {
			body = append(body, line...)
		}
	}
	text, err := narinfo.SignGuix(body, key(t, 1), "test")
	must(t, err)
	server := newServer(t)
	server.add(t, it, key(t, 1))
	server.set(it.path.Hash+".narinfo", append(text, narinfo.Locations(it.nars)...))
	m := newMachine(t, server.URL)
	m.wantInstalled(m.substitute(it)[0], it)
	if n := server.count("POST"); n != 0 {
		t.Errorf("%d requests for blocks", n)
	}
}

func TestImplausibleNarSize(t *testing.T) {
	for _, size := range []uint64{0, 1 << 63, 1<<64 - 1} {
		it := newItem(t, "item-1.0", tree(t, 1000), "zstd:3")
		it.fields.NarSize = size
		server := newServer(t)
		server.add(t, it, key(t, 1))
		m := newMachine(t, server.URL)
		m.wantNothing(m.substitute(it)[0], "not-found")
		m.wantMessage("NarSize")
	}
}

func TestBadURN(t *testing.T) {
	for _, urn := range []string{"urn:eris:XX", "urn:erisx2:XX", "http://example"} {
		it := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
		it.fields.ERIS = urn
		server := newServer(t)
		server.add(t, it, key(t, 1))
		m := newMachine(t, server.URL)
		m.wantInstalled(m.substitute(it)[0], it)
	}
	it := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
	it.fields.ERISFormat = "application/x-nix-archive+brotli"
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	m.wantInstalled(m.substitute(it)[0], it)
	if n := server.count("POST"); n != 0 {
		t.Errorf("%d requests for blocks of an unknown form", n)
	}
}

// TestBoundedTree: a signed URN whose tree is longer than its nar can be.
func TestBoundedTree(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
	long := newItem(t, "long-1.0", tree(t, 8<<20), "none")
	it.fields.ERIS, it.fields.ERISFormat = long.fields.ERIS, long.fields.ERISFormat
	server := newServer(t)
	server.add(t, it, key(t, 1))
	server.blocks = long.blocks
	m := newMachine(t, server.URL)
	m.wantInstalled(m.substitute(it)[0], it) // by its nar
	if !strings.Contains(m.log.String(), "longer than its bound") {
		t.Errorf("the log does not say why blocks were not used:\n%s", m.log.String())
	}
}
