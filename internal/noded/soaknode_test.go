package noded

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"ersatz/guixsig"
	"ersatz/internal/folder"
	"ersatz/internal/keep"
	"ersatz/internal/node"
	"ersatz/internal/upstream"
)

// soakNode is a machine with a node, which is up or down.
type soakNode struct {
	t      *testing.T
	dir    string
	socket string
	quota  int64
	origin *soakOrigin
	peers  []string
	wire   *line // to other nodes, with faults
	door   *line // for this machine
	log    *slog.Logger

	mu      sync.Mutex // held by who starts, stops or checks it
	service *Service   // nil: it is down
	stop    context.CancelFunc
	ended   chan error
	damaged map[string]bool // hash parts of items, and names of parts, whose files were changed while it was down
}

// start starts the node. What it keeps is within the quota then.
func (n *soakNode) start() {
	n.t.Helper()
	sv, err := upstream.ParseServer(n.origin.url())
	check(n.t, err)
	keys := node.Keys{Guix: guixsig.ACL{}.Add(n.origin.key.Public())}
	service, err := Open(n.t.Context(), n.dir, Options{
		Servers: []*upstream.Server{sv}, Peers: n.peers, Quota: n.quota,
		Node: node.Options{
			Keys: func() (node.Keys, error) { return keys, nil }, Share: node.ShareLAN, ShareKeys: keys, Log: n.log,
		},
	})
	check(n.t, err)
	if u, size := service.store.Usage(), n.size(); u.Total() > n.quota || size > n.quota {
		n.t.Errorf("%s: %d bytes are kept, %d in files, of a quota of %d: %+v", n.dir, u.Total(), size, n.quota, u)
	}
	if err := os.Remove(n.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.t.Fatal(err)
	}
	unix := listen(n.t, "unix", n.socket)
	ctx, cancel := context.WithCancel(context.Background())
	n.service, n.stop, n.ended = service, cancel, make(chan error, 1)
	tcp := []net.Listener{n.wire.plug(), n.door.plug()}
	go func() { n.ended <- service.Run(ctx, tcp, []net.Listener{unix}) }()
}

// end stops the node, and wants all that it keeps to be right but for what was
// damaged, which is removed.
func (n *soakNode) end() {
	n.t.Helper()
	if n.service == nil {
		return // it could not be started
	}
	if err := n.service.store.Settle(n.t.Context()); err != nil { // else not all is counted
		n.t.Errorf("%s: %v", n.dir, err)
	}
	n.stop()
	n.wire.unplug()
	n.door.unplug()
	if err := errors.Join(<-n.ended, n.service.Close()); err != nil {
		n.t.Errorf("%s: %v", n.dir, err)
	}
	u := n.service.store.Usage()
	if size := n.size(); len(n.damaged) == 0 && size != u.Total() {
		n.t.Errorf("%s: %d bytes are in files, %d counted: %+v", n.dir, size, u.Total(), u)
	}
	n.service = nil
	n.fsck(true)
	n.damaged = map[string]bool{}
}

// fsck checks what is kept, beside the node or alone.
func (n *soakNode) fsck(alone bool) {
	n.t.Helper()
	err := keep.Fsck(context.Background(), n.dir, keep.CheckOptions{Repair: alone}, func(f folder.Fault) {
		for name := range n.damaged {
			if strings.Contains(f.File+" "+f.Text, name) {
				return
			}
		}
		n.t.Errorf("%s: fsck (alone: %t): %s: %s", n.dir, alone, f.File, f.Text)
	})
	if err != nil {
		n.t.Errorf("%s: %v", n.dir, err)
	}
}

// size returns what the files take on disk that count against the quota.
func (n *soakNode) size() (bytes int64) {
	for _, dir := range []string{"nar", "narinfo", "eris", "parts", "kept.sqlite"} {
		err := filepath.WalkDir(filepath.Join(n.dir, dir), func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				bytes += folder.Allocated(name)
			}
			return err
		})
		check(n.t, err)
	}
	return bytes
}

// damage changes some files of a node that is down, and has it forget what it
// has learnt of others, every second time.
func (n *soakNode) damage(rng *rand.Rand) (changed int) {
	n.t.Helper()
	if rng.IntN(2) == 0 {
		if err := os.Remove(filepath.Join(n.dir, bookFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			n.t.Fatal(err)
		}
	}
	for _, pattern := range []string{"nar/*/*", "narinfo/*", "eris/tree/*", "parts/*/*"} {
		files, err := filepath.Glob(filepath.Join(n.dir, pattern))
		check(n.t, err)
		if len(files) == 0 || rng.IntN(3) > 0 {
			continue
		}
		name := files[rng.IntN(len(files))]
		if strings.HasPrefix(pattern, "parts") {
			n.damaged[filepath.Base(filepath.Dir(name))] = true
		}
		for _, i := range n.origin.items {
			if strings.Contains(filepath.Base(name), i.info.Path.Hash) {
				n.spoilt(i)
			}
		}
		spoil(n.t, name, rng)
		changed++
	}
	return changed
}

// spoilt notes that an item's files are wrong, and so are those of items with
// the same nar, since it may be one file.
func (n *soakNode) spoilt(i *soakItem) {
	for _, other := range n.origin.items {
		if other.info.NarHash == i.info.NarHash {
			n.damaged[other.info.Path.Hash] = true
		}
	}
}

// spoil changes a bit of a file, or cuts off its end.
func spoil(t *testing.T, name string, rng *rand.Rand) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	fi, err := f.Stat()
	check(t, err)
	switch size := fi.Size(); {
	case size == 0:
	case rng.IntN(3) == 0:
		check(t, f.Truncate(rng.Int64N(size)))
	default:
		var b [1]byte
		at := rng.Int64N(size)
		_, err = f.ReadAt(b[:], at)
		check(t, err)
		b[0] ^= 1 << rng.IntN(8)
		_, err = f.WriteAt(b[:], at)
		check(t, err)
	}
}
