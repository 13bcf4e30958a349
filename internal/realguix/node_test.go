package realguix

import (
	"context"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"ersatz/narinfo"
)

const (
	nodeSocket = "/run/ersatz/node.sock"
	nodeState  = "/var/lib/ersatz-node"
)

// node runs ersatz node in the machine until the test ends, as a user who owns
// nothing but its folders.
func (w *world) node(addr string, args ...string) *Server {
	w.t.Helper()
	return w.nodeOn(addr, addr, args...)
}

// nodeOn is node for one that listens on more than addr.
func (w *world) nodeOn(listen, addr string, args ...string) *Server {
	w.t.Helper()
	_, err := w.Run(w.ctx, "install", "-d", "-o", "nobody", "-m", "755", nodeState, "/run/ersatz")
	w.check(err)
	args = append([]string{"--reuid=nobody", "--regid=nogroup", "--clear-groups", "ersatz", "node", "--listen=" + listen, "--state=" + nodeState, "--log-level=debug"}, args...)
	s, err := Serve(w.ctx, addr, func(ctx context.Context) *exec.Cmd { return w.Command(ctx, "setpriv", args...) })
	w.check(err)
	w.t.Cleanup(func() {
		s.Stop()
		if w.t.Failed() {
			w.t.Logf("node:\n%s", tail([]byte(s.Log())))
		}
	})
	return s
}

// TestNodeForStockDaemon: a stock guix-daemon installs through a node, from
// servers with and without URNs.
func TestNodeForStockDaemon(t *testing.T) {
	for _, server := range []string{"guix", "ersatz"} {
		t.Run(server, func(t *testing.T) {
			w, i := withErsatz(t), makeItems(t)
			w.daemon(DaemonOptions{})
			w.check(w.Import(w.ctx, w.key, i.all()...))
			upstream := w.addr()
			w.serve(upstream, server, "--cache=/var/cache/"+server, "--compression=zstd:3")
			w.baked(upstream, i.all()...)
			addr := w.addr()
			w.node(addr, "--socket=none", "--upstream=http://"+upstream)
			for _, item := range []Item{i.many, i.big} {
				w.remove(item)
				w.wantFrom(w.build(item, "http://"+addr), "http://"+addr)
				w.wantInstalled(item, 0)
			}
		})
	}
}

// TestNodeCut: when the upstream breaks off in the middle of a nar and has no
// more, the stock client sees an error and nothing is installed; when it is
// back, the item is.
func TestNodeCut(t *testing.T) {
	w, i := withErsatz(t), makeItems(t)
	w.daemon(DaemonOptions{})
	w.check(w.Import(w.ctx, w.key, i.all()...))
	upstream := w.addr()
	w.serve(upstream, "guix", "--cache=/var/cache/guix", "--compression=zstd:3")
	w.baked(upstream, i.big)
	var mended atomic.Bool
	p := newProxy(t, "http://"+upstream, func(res *http.Response) bool { return !mended.Load() && truncate(res) })
	addr := w.addr()
	w.node(addr, "--socket=none", "--upstream="+p.URL)
	w.remove(i.big)
	if out, err := w.Run(w.ctx, "guix", "build", "--substitute-urls=http://"+addr, i.big.Path.String()); err == nil {
		t.Errorf("installed: %s", out)
	}
	// The stock substituter leaves what it has written, which is no item.
	if out, err := w.Run(w.ctx, "guix", "gc", "--references", i.big.Path.String()); err == nil {
		t.Errorf("valid: %s", out)
	}
	mended.Store(true)
	w.check(w.ForgetNarinfos())
	w.wantFrom(w.build(i.big, "http://"+addr), "http://"+addr)
	w.wantInstalled(i.big, 0)
}

// TestNodeForErsatz: ersatz-substitute, run by both kinds of daemon, has the
// node fetch; without the node it goes on alone.
func TestNodeForErsatz(t *testing.T) {
	for name, unprivileged := range map[string]bool{"root": false, "unprivileged": true} {
		t.Run(name, func(t *testing.T) {
			w, i := withErsatz(t), makeItems(t)
			w.daemon(wrapped(unprivileged))
			w.check(w.Import(w.ctx, w.key, i.all()...))
			owner := uint32(0)
			if unprivileged {
				owner = w.uid("guix-daemon")
			}
			upstream := w.publish("zstd:3", i.all()...)
			n := w.node(w.addr(), "--socket="+nodeSocket)
			for _, item := range []Item{i.many, i.big} {
				w.remove(item)
				w.build(item, "http://"+upstream)
				w.wantInstalled(item, owner)
				if !strings.Contains(n.Log(), "path=/v1/nar") {
					t.Errorf("the node was not asked")
				}
			}
			n.Stop()
			w.remove(i.many)
			w.wantFrom(w.build(i.many, "http://"+upstream), "urn:eris:")
			w.wantInstalled(i.many, owner)
		})
	}
}

// TestNodeOldNarinfo: a narinfo of old has its URLs above the signature, which
// covers them, so they stay. The node does not have them, and the stock client
// goes on to the node's own.
func TestNodeOldNarinfo(t *testing.T) {
	w, i := withErsatz(t), makeItems(t)
	w.daemon(DaemonOptions{})
	w.check(w.Import(w.ctx, w.key, i.all()...))
	upstream := w.addr()
	w.serve(upstream, "ersatz", "--cache=/var/cache/ersatz", "--compression=gzip:1", "--compression=zstd:3")
	w.baked(upstream, i.big)
	p := newProxy(t, "http://"+upstream, editNarinfo(func(text string) string {
		body, rest, _ := strings.Cut(text, "Signature: ")
		_, locations, _ := strings.Cut(rest, "\n")
		signed, err := narinfo.SignGuix([]byte(body+locations), w.key, "old.example.org")
		if err != nil {
			t.Error(err)
		}
		return string(signed)
	}))
	addr := w.addr()
	w.node(addr, "--socket=none", "--upstream="+p.URL)
	w.remove(i.big)
	w.wantFrom(w.build(i.big, "http://"+addr), "http://"+addr+"/nar/"+i.big.Path.Base())
	w.wantInstalled(i.big, 0)
}
