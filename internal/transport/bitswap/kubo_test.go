package bitswap_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/memstore"
	"ersatz/internal/transport/bitswap"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
	"ersatz/internal/transport/transporttest"
)

// address returns a multiaddr of a daemon.
func address(t testing.TB, d *kubotest.Daemon) string {
	t.Helper()
	var id struct{ Addresses []string }
	if err := json.Unmarshal([]byte(d.Run(t, "id")), &id); err != nil {
		t.Fatal(err)
	}
	if len(id.Addresses) == 0 {
		t.Fatal("daemon has no swarm address")
	}
	return slices.Max(id.Addresses) // in a lab, not that of loopback
}

// keep puts blocks into a daemon's repository.
func keep(t testing.TB, d *kubotest.Daemon, blocks block.Getter, refs []eris.Ref) {
	t.Helper()
	c, err := ipfs.New(d.API, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Put(t.Context(), refs[0], slices.Values(refs), func(emit func(eris.Ref, []byte) error) error {
		for _, ref := range refs {
			b, err := blocks.Get(t.Context(), ref)
			if err := errors.Join(err, emit(ref, b)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTransportOfKubo runs the suite with a real daemon that gives, as far as that
// goes.
func TestTransportOfKubo(t *testing.T) {
	transporttest.Run(t, transporttest.Transport{
		Foreign: true,
		Serve: func(t testing.TB, _ string, blocks block.Getter, refs []eris.Ref) (string, func()) {
			d := kubotest.Start(t)
			keep(t, d, blocks, refs)
			return address(t, d), d.Stop
		},
		Dial: func(t testing.TB, address string, idle time.Duration) eris.Fetcher {
			return open(t, start(t, nil, bitswap.Options{Peers: []string{address}, Idle: idle}), eris.Ref{})
		},
	})
}

// TestKuboFetches has a daemon get blocks from us, and not those that we lack.
func TestKuboFetches(t *testing.T) {
	d := kubotest.Start(t)
	lib, refs := memstore.New(), []eris.Ref{}
	for i, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB, eris.Size32KiB} {
		ref, b := blocktest.Make(size, uint64(i))
		if err := lib.Put(t.Context(), ref, b); err != nil {
			t.Fatal(err)
		}
		refs = append(refs, ref)
	}
	h := start(t, lib, bitswap.Options{Listen: []string{anyPort}})
	d.Run(t, "swarm", "connect", h.Addrs()[0])
	for _, ref := range refs {
		want, err := lib.Get(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.Run(t, "block", "get", "--timeout=20s", cidOf(t, ref).String()); got != strings.TrimSpace(string(want)) {
			t.Errorf("block %s: %d bytes", ref, len(got))
		}
	}
	if s := h.Status(); s.BlocksSent != 3 || s.BytesSent != 65<<10 || s.Peers != 1 {
		t.Errorf("status %+v", s)
	}
}

// TestDHT has three meet in a DHT: a daemon that is its server, one of us who has
// a content, and one who looks for it.
func TestDHT(t *testing.T) {
	if !inLab(t, "link set lo up", "link add site type veth peer name other", "link set other up", "addr add 10.77.0.1/24 dev site", "link set site up", "route add default dev site") {
		return
	}
	d := kubotest.StartDHT(t)
	lib, refs := transporttest.Blocks(t, 20)
	root, leaf := refs[19], refs[0]
	by := []string{address(t, d)}
	from := start(t, lib, bitswap.Options{Listen: []string{"/ip4/10.77.0.1/tcp/0"}, DHT: bitswap.DHTServer, Bootstrap: by})
	state := t.TempDir()
	to := start(t, nil, bitswap.Options{DHT: bitswap.DHTClient, Bootstrap: by, State: state})
	if err := from.Offer(t.Context(), block.Shared{ReadCap: eris.ReadCap{Root: root}}, nil); err != nil {
		t.Fatal(err)
	}
	if got := d.Run(t, "routing", "findprovs", "--timeout=20s", cidOf(t, root).String()); got != from.ID() {
		t.Errorf("providers of the root: %q, want %s", got, from.ID())
	}
	if got := d.Run(t, "routing", "findprovs", "--timeout=20s", cidOf(t, leaf).String()); got != "" {
		t.Errorf("providers of a leaf: %q", got)
	}
	if n, err := count(t, open(t, to, root), refs); n != len(refs) || err != nil {
		t.Errorf("%d of %d blocks, %v", n, len(refs), err)
	}
	if n, err := count(t, open(t, to, leaf), refs[:1]); n != 0 || err != nil {
		t.Errorf("content that nobody has announced: %d blocks, %v", n, err)
	}
	if err := to.Close(); err != nil {
		t.Error(err)
	}
	again := start(t, nil, bitswap.Options{DHT: bitswap.DHTClient, State: state})
	if n, err := count(t, open(t, again, root), refs); n != len(refs) || err != nil {
		t.Errorf("by peers that are remembered: %d of %d blocks, %v", n, len(refs), err)
	}
	alone := start(t, nil, bitswap.Options{DHT: bitswap.DHTServer})
	if err := alone.Offer(t.Context(), block.Shared{ReadCap: eris.ReadCap{Root: root}}, nil); !errors.Is(err, bitswap.ErrNotProvided) {
		t.Errorf("announced to nobody: %v", err)
	}
}
