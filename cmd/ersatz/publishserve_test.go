package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/storedb"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
	"ersatz/nar"
	"ersatz/narinfo"
	"ersatz/storepath"
)

func TestServePlan(t *testing.T) {
	good := publishFlags{cache: "c", state: "/var/guix", store: storepath.Guix, roots: []string{"r"}, uploadLimit: "2MiB/s",
		serve: []string{"coap+tcp://127.0.0.1:0", "ipfs+http://127.0.0.1:5001", "file:///srv/blocks"}}
	plan, err := good.plan(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := plan.serve
	if len(s.public) != 1 || s.public[0].Scheme() != "ipfs+http" || len(s.own) != 2 || s.limit.Limit() != 2<<20 || plan.bake.Torrents {
		t.Errorf("%+v", s)
	}
	for name, c := range map[string]struct {
		change func(*publishFlags)
		want   string
	}{
		"no cache":       {func(p *publishFlags) { p.cache, p.roots = "", nil }, "--serve needs --cache"},
		"no roots":       {func(p *publishFlags) { p.roots = nil }, "--serve 'ipfs+http://127.0.0.1:5001': everybody can get what is put there: say with --bake-roots"},
		"no URL":         {func(p *publishFlags) { p.serve = []string{"5683"} }, "--serve: store URL"},
		"Kubo twice":     {func(p *publishFlags) { p.ipfs = "http://127.0.0.1:5001" }, "leave one of them out"},
		"limit of 0":     {func(p *publishFlags) { p.uploadLimit = "0" }, "--upload-limit: nothing could be served"},
		"limit of what":  {func(p *publishFlags) { p.serve = nil }, "--upload-limit: bounds what --serve sends"},
		"limit is wrong": {func(p *publishFlags) { p.uploadLimit = "fast" }, "--upload-limit: "},
	} {
		p := good
		c.change(&p)
		if _, err := p.plan(nil); !errors.Is(err, errUsage) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// addItem adds an item to the store of scratchArgs.
func addItem(t *testing.T, dir, base, content string, refs ...storepath.Path) storepath.Path {
	t.Helper()
	p, err := storepath.ParseBase(filepath.Join(dir, "store"), base)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(p.String(), 0o755), os.WriteFile(filepath.Join(p.String(), "file"), []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
	n, err := nar.Dump(io.Discard, p.String())
	if err != nil {
		t.Fatal(err)
	}
	db, err := storedb.Create(filepath.Join(dir, "guix"))
	if err != nil {
		t.Fatal(err)
	}
	info := storedb.Info{Path: p, NarHash: n.Hash, NarSize: uint64(n.Size), References: refs, Registered: time.Unix(1, 0)}
	if err := errors.Join(db.Register(t.Context(), info), db.Close()); err != nil {
		t.Fatal(err)
	}
	return p
}

// publisher is a publish that runs.
type publisher struct {
	t    *testing.T
	cmd  *exec.Cmd
	url  string // of its HTTP server
	done chan struct{}

	mu   sync.Mutex
	log  []string      // lines
	more chan struct{} // closed when there is another line
}

var logAddress = regexp.MustCompile(`address=(\S+)`)

// startPublish runs publish until it serves.
func startPublish(t *testing.T, args ...string) *publisher {
	t.Helper()
	ersatz, err := exec.LookPath("ersatz")
	if err != nil {
		t.Fatal(err)
	}
	p := &publisher{
		t: t, cmd: exec.Command(ersatz, append(args, "--log-level=debug", "--listen=127.0.0.1", "--port=0")...),
		done: make(chan struct{}), more: make(chan struct{}),
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.read(stderr)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // has ended unless the test has failed
		<-p.done
		if t.Failed() {
			t.Logf("publish:\n%s", p.said())
		}
	})
	p.url = "http://" + logAddress.FindStringSubmatch(p.wait("msg=publishing"))[1]
	return p
}

func (p *publisher) read(r io.Reader) {
	defer close(p.done)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		p.mu.Lock()
		p.log = append(p.log, lines.Text())
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
}

// said returns the log.
func (p *publisher) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log, "\n")
}

// wait returns the first line of the log that has all words, once it is there.
func (p *publisher) wait(words ...string) string {
	p.t.Helper()
	late := time.After(patience)
	for from := 0; ; {
		p.mu.Lock()
		lines, more := p.log[from:], p.more
		p.mu.Unlock()
		from += len(lines)
		for _, line := range lines {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return line
			}
		}
		select {
		case <-more:
		case <-p.done:
			p.t.Fatalf("publish has ended without saying %q", words)
		case <-late:
			p.t.Fatalf("publish does not say %q", words)
		}
	}
}

// serves returns the address at which a store of --serve listens.
func (p *publisher) serves(scheme string) string {
	p.t.Helper()
	return logAddress.FindStringSubmatch(p.wait(`msg="serving blocks"`, "store="+scheme, "address="))[1]
}

// narinfo asks for an item, and returns its narinfo once it is baked.
func (p *publisher) narinfo(item storepath.Path) string {
	p.t.Helper()
	name := "/" + item.Hash + ".narinfo"
	_, text, err := httpGet(p.t.Context(), p.url+name)
	if err == nil && !strings.Contains(text, "\nERIS: ") {
		p.wait("msg=baked", item.String())
		_, text, err = httpGet(p.t.Context(), p.url+name)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	_, body, _ := strings.Cut(text, "\n\n")
	return body
}

// readCap returns the read capability of an item once it is baked.
func (p *publisher) readCap(item storepath.Path) eris.ReadCap {
	p.t.Helper()
	n, err := narinfo.Parse([]byte(p.narinfo(item)))
	if err != nil {
		p.t.Fatal(err)
	}
	rc, err := eris.ParseURN(n.ERIS)
	if err != nil {
		p.t.Fatal(err)
	}
	return rc
}

// end interrupts publish, which must end well.
func (p *publisher) end() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		p.t.Error(err)
	}
	<-p.done
	if err := p.cmd.Wait(); err != nil {
		p.t.Error(err)
	}
}

// TestPublishServesCoAP has libcoap's client get a block of what a client of HTTP
// has asked for.
func TestPublishServesCoAP(t *testing.T) {
	client, err := exec.LookPath("coap-client-openssl")
	if err != nil {
		t.Skip("no coap-client-openssl (Debian package libcoap3-bin)")
	}
	args := scratchArgs(t)
	dir := filepath.Dir(args[2])
	item := addItem(t, dir, strings.Repeat("a", 32)+"-item", "hello")
	p := startPublish(t, append(args, "--cache="+filepath.Join(dir, "cache"), "--serve=coap+tcp://127.0.0.1:0", "--upload-limit=10MB/s")...)
	rc := p.readCap(item)
	file := filepath.Join(dir, "block")
	out, err := exec.CommandContext(t.Context(), client, "-B", "20", "-o", file, "coap+tcp://"+p.serves("coap+tcp")+"/.well-known/eris/blocks?"+rc.Root.String()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if b, err := os.ReadFile(file); err != nil || eris.BlockRef(b) != rc.Root {
		t.Errorf("%d bytes, %v\n%s", len(b), err, out)
	}
	p.end()
	if fi, err := os.Stat(filepath.Join(dir, "cache", networksDir)); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("what networks remember can be read by others: %v, %v", fi, err)
	}
}

// TestPublishServesKubo has a real daemon given what a root refers to, once, and
// not what only a client has asked for; when the root is another one, what it
// does not refer to is taken back.
func TestPublishServesKubo(t *testing.T) {
	d := kubotest.Start(t)
	kubo, err := ipfs.New(d.API, nil)
	if err != nil {
		t.Fatal(err)
	}
	has := func(rc eris.ReadCap) (there bool) {
		t.Helper()
		kubo.BlockTimeout = 200 * time.Millisecond // there is nobody else to ask
		err := kubo.Fetch(t.Context(), rc.Size, []eris.Ref{rc.Root}, func(_ int, b []byte) error {
			there = eris.BlockRef(b) == rc.Root
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return there
	}
	args := scratchArgs(t)
	dir := filepath.Dir(args[2])
	shared := addItem(t, dir, strings.Repeat("a", 32)+"-shared", "what both need")
	first := addItem(t, dir, strings.Repeat("b", 32)+"-first", strings.Repeat("first", 20_000), shared)
	second := addItem(t, dir, strings.Repeat("c", 32)+"-second", "second", shared)
	private := addItem(t, dir, strings.Repeat("d", 32)+"-private", "private")
	roots := filepath.Join(dir, "roots")
	rootIs := func(p storepath.Path) {
		t.Helper()
		if err := os.WriteFile(roots, []byte(p.String()+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args = append(args, "--cache="+filepath.Join(dir, "cache"), "--bake-roots="+roots, "--serve=ipfs+"+d.API)

	offered := func(p *publisher, rc eris.ReadCap) { p.wait(`msg="content offered"`, "root="+rc.Root.String()) }
	rootIs(first)
	p := startPublish(t, args...)
	ofPrivate, ofShared, ofFirst := p.readCap(private), p.readCap(shared), p.readCap(first)
	offered(p, ofShared)
	offered(p, ofFirst)
	if !has(ofShared) || !has(ofFirst) || has(ofPrivate) {
		t.Error("the daemon has not what the root refers to, or more")
	}
	p.end()

	// Nothing is put twice, and what has left is taken back.
	rootIs(second)
	p = startPublish(t, args...)
	ofSecond := p.readCap(second)
	offered(p, ofSecond)
	p.wait(`msg="content withdrawn"`, "root="+ofFirst.Root.String())
	if !has(ofShared) || !has(ofSecond) || has(ofFirst) || has(ofPrivate) {
		t.Error("the daemon has not what the other root refers to, or more")
	}
	p.end()
	for _, rc := range []eris.ReadCap{ofShared, ofFirst, ofPrivate} {
		if strings.Contains(p.said(), `msg="content offered" network=ipfs+`+d.API+" root="+rc.Root.String()) {
			t.Errorf("%s was offered", rc.Root)
		}
	}
	if !strings.Contains(p.said(), `msg="content offered" network=ipfs+`+d.API+" root="+ofSecond.Root.String()) {
		t.Error("the log has another form")
	}
}

// TestPublishServesNetworks has what a root refers to fetched by Bitswap and by
// BitTorrent, and what only a client has asked for not.
func TestPublishServesNetworks(t *testing.T) {
	args := scratchArgs(t)
	dir := filepath.Dir(args[2])
	public := addItem(t, dir, strings.Repeat("a", 32)+"-public", string(random(100_000)))
	private := addItem(t, dir, strings.Repeat("b", 32)+"-private", "private")
	roots := filepath.Join(dir, "roots")
	if err := os.WriteFile(roots, []byte(public.String()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := startPublish(t, append(args, "--cache="+filepath.Join(dir, "cache"), "--bake-roots="+roots,
		"--serve=ipfs:?listen=/ip4/127.0.0.1/tcp/0&dht=off", "--serve=bittorrent:?listen=127.0.0.1:0&dht=off")...)
	decode := func(from string, item storepath.Path) error {
		out, err := exec.CommandContext(t.Context(), p.cmd.Path, "decode", "--from", from, p.readCap(item).URN()).Output()
		if err != nil {
			return err
		}
		want, err := os.ReadFile(filepath.Join(dir, "cache", "nar", "zstd", item.Base()))
		if err == nil && !bytes.Equal(out, want) {
			err = errors.New("not what was baked")
		}
		return err
	}
	root := "root=" + p.readCap(public).Root.String()
	for _, network := range []string{"network=ipfs", "network=bittorrent"} {
		p.wait(`msg="content offered"`, network, root)
	}
	peer := "ipfs:?peer=" + regexp.MustCompile(`addresses="?\[([^ \]]+)`).FindStringSubmatch(p.wait(`msg="IPFS host"`))[1]
	if err := decode(peer, public); err != nil {
		t.Errorf("by Bitswap: %v", err)
	}
	if err := decode(peer, private); err == nil {
		t.Error("what only a client has asked for came by Bitswap")
	}
	_, magnet, _ := strings.Cut(p.narinfo(public), "ERISMagnet: ")
	magnet, _, _ = strings.Cut(magnet, "\n")
	if err := decode(magnet+"&x.pe="+p.serves("bittorrent"), public); err != nil {
		t.Errorf("by BitTorrent, %s: %v", magnet, err)
	}
	if text := p.narinfo(private); strings.Contains(text, "ERISMagnet") {
		t.Errorf("who gets it by this would give it to everybody:\n%s", text)
	}
	secret := p.readCap(private).Root.String()
	p.end()
	if strings.Contains(p.said(), "root="+secret) {
		t.Error("what only a client has asked for was offered")
	}
}

// random returns bytes that do not get smaller by compression.
func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}
