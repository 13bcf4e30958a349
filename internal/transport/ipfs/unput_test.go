package ipfs_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
)

// someRefs returns references of blocks that do not exist.
func someRefs(n int) []eris.Ref {
	refs := make([]eris.Ref, n)
	for i := range refs {
		refs[i] = eris.BlockRef(fmt.Append(nil, i))
	}
	return refs
}

// An item is removed by its manifest alone, also after a removal that was cut
// short; what another item has stays.
func TestKuboRemoveAll(t *testing.T) {
	d := kubotest.Start(t)
	c := newClient(t, d.API)
	c.BlockTimeout = 200 * time.Millisecond // there is nobody else to ask
	empty := contents(t, d)
	// One node, and a node above others.
	small, large := newItem(t, 1, 10*int(eris.Size32KiB), eris.Size32KiB), newItem(t, 2, (ipfs.MaxLinks+1)*int(eris.Size1KiB), eris.Size1KiB)
	first, second := put(t, c, small), put(t, c, large)
	d.Run(t, "pin", "rm", second)
	d.Run(t, "block", "rm", ipfs.CID(large.refs[0]), ipfs.CID(large.refs[ipfs.MaxLinks-1]))
	for range 2 {
		if err := c.RemoveAll(t.Context(), second); err != nil {
			t.Fatal(err)
		}
	}
	if n := has(t, c, eris.Size1KiB, large.refs[:20]); n != 0 {
		t.Errorf("%d blocks are left", n)
	}
	if n := has(t, c, eris.Size32KiB, small.refs); n != len(small.refs) {
		t.Errorf("%d blocks of the other are left, of %d", n, len(small.refs))
	}
	if err := c.RemoveAll(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if left := contents(t, d); left != empty {
		t.Errorf("left in the repository:\n%.500s", left)
	}
}

func TestRemoveAllFaults(t *testing.T) {
	top, _, err := ipfs.Manifest(slices.Values(someRefs(3)))
	if err != nil {
		t.Fatal(err)
	}
	node := ipfs.ManifestNodes(slices.Values(someRefs(3)))[0]
	for name, c := range map[string]struct {
		cid, want string
		get       http.HandlerFunc
	}{
		"no CID":        {"bafk", "malformed manifest", nil},
		"a block's CID": {ipfs.CID(eris.Ref{1}), "malformed manifest", nil},
		"other bytes":   {top, "is another block", func(w http.ResponseWriter, _ *http.Request) { w.Write(node[1:]) }},
		"too long": {top, "is another block", func(w http.ResponseWriter, _ *http.Request) {
			w.Write(append(node, make([]byte, 1<<20)...))
		}},
		"cut": {top, "unexpected EOF", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(node)))
			w.Write(node[:10])
		}},
		"disk": {top, "input/output error", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			io.WriteString(w, `{"Message":"input/output error"}`)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			client := standIn(t, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasSuffix(r.URL.Path, "/pin/rm"):
				case strings.HasSuffix(r.URL.Path, "/block/get") && c.get != nil:
					c.get(w, r)
				default:
					t.Errorf("asked for %s", r.URL)
				}
			})
			if err := client.RemoveAll(t.Context(), c.cid); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
}

// What is taken for a node is what Put makes.
func FuzzManifestNode(f *testing.F) {
	for _, n := range []int{1, 23, 24, 255, 256, ipfs.MaxLinks} {
		f.Add(ipfs.ManifestNodes(slices.Values(someRefs(n)))[0])
	}
	two := ipfs.ManifestNodes(slices.Values(someRefs(ipfs.MaxLinks + 1)))
	f.Add(two[len(two)-1]) // links to nodes
	f.Add([]byte{0x80})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ipfs.ParseNode(b)
		if err != nil {
			return
		}
		if n < 1 || n > ipfs.MaxLinks || !bytes.Equal(ipfs.Node(b), b) {
			t.Fatalf("%d links in another spelling", n)
		}
	})
}

func TestManifestNode(t *testing.T) {
	for _, n := range []int{1, 23, 24, 255, 256, ipfs.MaxLinks} {
		node := ipfs.ManifestNodes(slices.Values(someRefs(n)))[0]
		if got, err := ipfs.ParseNode(node); err != nil || got != n {
			t.Errorf("%d links: %d, %v", n, got, err)
		}
	}
}
