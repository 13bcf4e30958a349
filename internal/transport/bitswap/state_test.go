package bitswap

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"ersatz/eris"
)

// someID is a peer ID.
const someID = "12D3KooWACBzyepfiwV6iAp7QNYGJucEN9jTHjjVtSVPmEgi263h"

func TestKeyIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by us")
	one, _, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, keyFile)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	two, _, err := openState(dir)
	if err != nil || !one.Equals(two) {
		t.Errorf("another key after a restart, %v", err)
	}
	three, _, err := openState("")
	if err != nil || one.Equals(three) {
		t.Errorf("the same key without a folder, %v", err)
	}
	if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openState(dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("broken key: %v", err)
	}
}

func TestRemembered(t *testing.T) {
	var infos []peer.AddrInfo
	for range 2 * maxAddrs {
		infos = append(infos, peer.AddrInfo{ID: "a"})
	}
	info := peer.AddrInfo{ID: peer.ID("x")}
	for i := range 2 * maxAddrs {
		info.Addrs = append(info.Addrs, multiaddr.StringCast(fmt.Sprintf("/ip4/5.5.5.%d/tcp/1", i)))
	}
	id, err := peer.Decode(someID)
	if err != nil {
		t.Fatal(err)
	}
	info.ID = id
	infos = append([]peer.AddrInfo{info}, infos...)
	text := formatRemembered(infos)
	got := parseRemembered(append([]byte("# no address\n/ip4/5.5.5.5/tcp/1\n"), text...))
	if len(got) != 1 || got[0].ID != id || len(got[0].Addrs) != maxAddrs {
		t.Errorf("read %v", got)
	}
}

// FuzzRemembered: what is read is within bounds, and what is written of it is read
// the same.
func FuzzRemembered(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("/ip4/5.5.5.5/tcp/1/p2p/" + someID + "\n"))
	f.Add([]byte("/ip4/5.5.5.5/tcp/1/p2p/" + someID + "\n/ip6/2001:db8::1/udp/4001/quic-v1/p2p/" + someID))
	f.Add([]byte("/dnsaddr/bootstrap.libp2p.io/p2p/" + someID + "\nnonsense\n/ip4/5.5.5.5\n"))
	f.Add([]byte("/ip4/5.5.5.1/tcp/4001/p2p/" + someID + "/p2p-circuit/p2p/" + someID + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		infos := parseRemembered(text)
		if len(infos) > maxRemembered {
			t.Fatalf("%d peers", len(infos))
		}
		once := formatRemembered(infos)
		if twice := formatRemembered(parseRemembered(once)); len(infos) == 1 && !bytes.Equal(once, twice) {
			t.Errorf("%q is read as %q", once, twice)
		}
	})
}

func TestCIDs(t *testing.T) {
	ref := eris.Ref{1, 2, 3}
	if s := toCID(ref).String(); !strings.HasPrefix(s, "bafk2bzace") {
		t.Errorf("CID is %s", s)
	}
	if got, ok := toRef(toCID(ref)); !ok || got != ref {
		t.Errorf("reference is %v, %v", got, ok)
	}
}

func TestRecords(t *testing.T) {
	r, ctx := newRecords(), t.Context()
	key := datastore.NewKey("/p/x")
	for i := range maxRecords + 100 {
		if err := r.Put(ctx, datastore.NewKey(fmt.Sprintf("/q/%d", i)), []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	batch, err := r.Batch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for k, n := range map[datastore.Key]int{key: 3, datastore.NewKey("/p/long"): maxRecord + 1} {
		if err := batch.Put(ctx, k, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if len(r.m) != maxRecords {
		t.Errorf("%d records", len(r.m))
	}
	res, err := r.Query(ctx, query.Query{Prefix: "/p"})
	if err != nil {
		t.Fatal(err)
	}
	if all, err := res.Rest(); err != nil || len(all) != 1 || all[0].Key != key.String() {
		t.Errorf("found %v, %v", all, err)
	}
	if n, err := r.GetSize(ctx, key); err != nil || n != 3 {
		t.Errorf("size %d, %v", n, err)
	}
	if err := r.Delete(ctx, key); err != nil {
		t.Fatal(err)
	}
	if has, err := r.Has(ctx, key); err != nil || has {
		t.Errorf("has %v, %v", has, err)
	}
	if _, err := r.GetSize(ctx, key); err == nil {
		t.Error("size of none")
	}
}
