package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/internal/bench/netlab"
	"ersatz/internal/keep"
	"ersatz/internal/node"
	"ersatz/internal/nodeapi"
	"ersatz/internal/storedb"
	"ersatz/internal/transfer"
	"ersatz/nar"
	"ersatz/narinfo"
	"ersatz/storepath"
)

func TestBrowses(t *testing.T) {
	for _, c := range []struct {
		discover string
		share    node.Share
		policy   transfer.Policy
		want     bool
	}{
		{discoverAuto, node.ShareNone, transfer.Mixed, false},
		{discoverAuto, node.ShareLAN, transfer.Mixed, true},
		{discoverAuto, node.ShareAll, transfer.P2POnly, true},
		{discoverAuto, node.ShareLAN, transfer.HTTPOnly, false},
		{discoverYes, node.ShareNone, transfer.Mixed, true},
		{discoverNo, node.ShareAll, transfer.Mixed, false},
	} {
		got, err := nodeFlags{discover: c.discover}.browses(c.share, c.policy)
		if err != nil || got != c.want {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
	if _, err := (nodeFlags{discover: "always"}).browses(node.ShareAll, transfer.Mixed); err == nil {
		t.Error("always is read")
	}
}

// TestNodesFindEachOther has machines of one network, beside an avahi-daemon
// each: a node that shares, a publish server, an upstream of the same store, and
// a node that was told to look. This one finds the first two, has from them what
// the upstream lacks, and does not have the upstream send what is nearer.
func TestNodesFindEachOther(t *testing.T) {
	l := newNodeLab(t)
	alpha, beta, gamma, origin := l.host("alpha"), l.host("beta"), l.host("gamma"), l.host("origin")
	kept, keptNar := l.keep("beta")
	published, publishedNar := l.item("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa2-published")
	l.publish(gamma, published, publishedNar, "--advertise")
	l.publish(origin, published, publishedNar)
	share := l.run(beta, "node", "--state="+l.file("beta"), "--socket="+l.file("beta.sock"),
		"--listen=0.0.0.0:8181", "--share=lan", "--share-list="+l.file("acl"))
	l.run(alpha, "node", "--state="+l.file("alpha"), "--socket="+l.file("alpha.sock"), "--listen=127.0.0.1:8181",
		"--upstream=http://"+origin.Addr().String()+":8080", "--discover=yes", "--acl="+l.file("acl"))

	found := l.peers("alpha", 2, 0)
	for i, want := range []nodeapi.Peer{
		{Kind: nodeapi.KindNode, URL: "http://" + beta.Addr().String() + ":8181", Name: "ersatz-"},
		{Kind: nodeapi.KindPublish, URL: "http://" + gamma.Addr().String() + ":8080", Name: "guix-publish-"},
	} {
		if p := found[i]; p.URL != want.URL || p.Kind != want.Kind || !p.Near || p.Named || !strings.HasPrefix(p.Name, want.Name) {
			t.Errorf("%+v", p)
		}
	}
	out, err := exec.Command(l.ersatz, "peers", "--socket="+l.file("alpha.sock")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "\n"+found[0].URL+"  node  ") || !strings.Contains(string(out), found[1].Name) {
		t.Errorf("%v\n%s", err, out)
	}
	l.peers("beta", 1, 0) // it has found the server, and not who does not share

	l.install(alpha, kept.Path, keptNar)
	if p := l.peers("alpha", 2, 1)[0]; p.Blocks < int64(len(keptNar))/int64(eris.Size32KiB) {
		t.Errorf("the node gave %d blocks", p.Blocks)
	}
	before, err := origin.Traffic()
	l.must(err)
	l.install(alpha, published, publishedNar)
	after, err := origin.Traffic()
	l.must(err)
	if sent := after.Since(before).Sent; sent > itemSize/10 {
		t.Errorf("the upstream has sent %d bytes", sent)
	}

	l.must(share.Process.Signal(os.Interrupt))
	l.peers("alpha", 1, 0) // it said goodbye
}

// nodeLab has programs on machines of one network. Their files are in dir.
type nodeLab struct {
	t      *testing.T
	ctx    context.Context
	lab    *netlab.Lab
	dir    string
	ersatz string
	key    *guixsig.PrivateKey // the only one in the file acl
}

// newNodeLab makes a network without machines, or skips the test.
func newNodeLab(t *testing.T) *nodeLab {
	t.Helper()
	if err := netlab.Missing(); err != nil {
		t.Skip(err)
	}
	for _, p := range netlab.AvahiPrograms() {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	l := &nodeLab{t: t, ctx: ctx, dir: t.TempDir()}
	var err error
	l.ersatz, err = exec.LookPath("ersatz") // as testscript.Main has set it up
	l.must(err)
	l.lab, err = netlab.New(ctx)
	l.must(err)
	t.Cleanup(func() {
		cancel()
		if err := l.lab.Close(); err != nil {
			t.Error(err)
		}
	})
	l.key, err = guixsig.GenerateKey(rand.Reader)
	l.must(err)
	l.must(os.WriteFile(l.file("acl"), guixsig.ACL{}.Add(l.key.Public()).Text(), 0o644))
	return l
}

func (l *nodeLab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *nodeLab) file(name string) string { return filepath.Join(l.dir, name) }

// host adds a machine with an avahi-daemon.
func (l *nodeLab) host(name string) *netlab.Host {
	l.t.Helper()
	h, err := l.lab.Host(l.ctx, name, netlab.Link{})
	l.must(err)
	cmd := h.Avahi(l.ctx, "")
	out, err := cmd.StdoutPipe()
	l.must(err)
	l.start(cmd)
	for scan := bufio.NewScanner(out); scan.Scan(); {
		if strings.Contains(scan.Text(), netlab.AvahiReady) {
			return h
		}
	}
	l.t.Fatalf("%s: avahi-daemon ended", name)
	return nil
}

// start starts a program that ends with the test.
func (l *nodeLab) start(cmd *exec.Cmd) {
	l.t.Helper()
	l.must(cmd.Start())
	l.t.Cleanup(func() {
		_ = cmd.Cancel() // it may have ended
		_ = cmd.Wait()   // it was killed
	})
}

// run starts ersatz on a machine.
func (l *nodeLab) run(h *netlab.Host, args ...string) *exec.Cmd {
	l.t.Helper()
	cmd := h.Command(l.ctx, l.ersatz, args...)
	cmd.Stderr = l.t.Output()
	l.start(cmd)
	return cmd
}

// peers waits until the node of a machine knows so many others, one of which has
// given so many blocks.
func (l *nodeLab) peers(host string, n int, blocks int64) []nodeapi.Peer {
	l.t.Helper()
	c := nodeapi.New(l.file(host+".sock"), 0)
	defer c.Close()
	for {
		list, err := c.Peers(l.ctx)
		enough := func(p nodeapi.Peer) bool { return p.Blocks >= blocks }
		if err == nil && len(list) == n && (n == 0 || slices.ContainsFunc(list, enough)) {
			return list
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-l.ctx.Done():
			l.t.Fatalf("%s knows %+v (%v), not %d peers with %d blocks", host, list, err, n, blocks)
		}
	}
}

// install has what clients of a machine's node do to install an item.
func (l *nodeLab) install(h *netlab.Host, p storepath.Path, want []byte) {
	l.t.Helper()
	text := l.get(h, p.Hash+".narinfo")
	if !bytes.Contains(text, []byte("Signature: ")) {
		l.t.Errorf("narinfo\n%s", text)
	}
	if got := l.get(h, "nar/"+p.Base()); !bytes.Equal(got, want) {
		l.t.Errorf("%s: a nar of %d bytes, not the one of %d", p, len(got), len(want))
	}
}

// get asks the node of a machine for a file.
func (l *nodeLab) get(h *netlab.Host, path string) []byte {
	l.t.Helper()
	tr := &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}
	res, err := (&http.Client{Transport: tr}).Get("http://127.0.0.1:8181/" + path)
	l.must(err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		l.t.Fatalf("%s: %s, %v", path, res.Status, err)
	}
	return text
}

// keep has the node of a machine keep an item. It returns its nar too.
func (l *nodeLab) keep(host string) (keep.Item, []byte) {
	l.t.Helper()
	p, dumped := l.item("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1-kept")
	item := keep.Item{Path: p, NarHash: sha256.Sum256(dumped), NarSize: int64(len(dumped)), Method: "none", Server: "http://gone.example", Asked: true}
	body := fmt.Sprintf("StorePath: %s\nNarHash: %s\nNarSize: %d\nReferences: \n", p, narinfo.FormatHash(item.NarHash), item.NarSize)
	var err error
	item.Narinfo, err = narinfo.SignGuix([]byte(body), l.key, host)
	l.must(err)
	store, err := keep.Open(l.file(host), keep.Options{})
	l.must(err)
	about := keep.About{Item: item, FileSize: item.NarSize}
	part, err := store.Part(keep.NarID(about), about)
	l.must(err)
	_, err = part.Append(dumped)
	l.must(err)
	part.Finish(item.NarSize)
	_, err = part.Commit(l.ctx, item, nil)
	l.must(errors.Join(err, part.Close(), store.Close()))
	return item, dumped
}

// publish has a machine serve an item of the store, and waits until it does.
func (l *nodeLab) publish(h *netlab.Host, p storepath.Path, dumped []byte, args ...string) {
	l.t.Helper()
	state := l.file("guix-" + h.Name())
	db, err := storedb.Create(state)
	l.must(err)
	err = db.Register(l.ctx, storedb.Info{Path: p, NarHash: sha256.Sum256(dumped), NarSize: uint64(len(dumped)), Registered: time.Unix(1, 0)})
	l.must(errors.Join(err, db.Close()))
	l.must(os.WriteFile(l.file("key.pub"), l.key.Public().Text(), 0o644))
	l.must(os.WriteFile(l.file("key.sec"), l.key.Text(), 0o600))
	l.run(h, append([]string{
		"publish", "--listen=0.0.0.0", "--port=8080", "--store=" + l.file("store"), "--state=" + state,
		"--public-key=" + l.file("key.pub"), "--private-key=" + l.file("key.sec"),
	}, args...)...)
	for {
		conn, err := h.Dial(l.ctx, "tcp", "127.0.0.1:8080")
		if err == nil {
			l.must(conn.Close())
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-l.ctx.Done():
			l.t.Fatalf("%s: %v", h.Name(), err)
		}
	}
}

// itemSize is how many bytes an item has.
const itemSize = 3_000_000

// item makes a file of random bytes an item of the store, and returns its nar.
func (l *nodeLab) item(base string) (storepath.Path, []byte) {
	l.t.Helper()
	random := make([]byte, itemSize)
	_, err := rand.Read(random)
	l.must(err)
	p, err := storepath.ParseBase(l.file("store"), base)
	l.must(err)
	l.must(os.MkdirAll(p.Dir, 0o755))
	l.must(os.WriteFile(p.String(), random, 0o644))
	var dumped bytes.Buffer
	_, err = nar.Dump(&dumped, p.String())
	l.must(err)
	return p, dumped.Bytes()
}
