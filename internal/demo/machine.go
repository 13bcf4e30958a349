package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/node"
	"ersatz/internal/noded"
	"ersatz/internal/upstream"
)

// keepTime bounds how long a node takes to keep what it has given already.
const keepTime = 10 * time.Second

// machine is `ersatz node`, with its cable.
type machine struct {
	name, socket string
	*cable
	events *events
	has    map[[32]byte]bool // NarHashes of what it has given already
	cancel context.CancelFunc
	work   sync.WaitGroup
	ended  error
}

// start starts the node of a machine. It keeps its items in the folder dir, and
// knows a substitute server and the peers at these URLs.
func start(ctx context.Context, name, dir string, key *guixsig.PrivateKey, server string, peers []string) (*machine, error) {
	m := &machine{name: name, socket: filepath.Join(dir, "socket"), events: newEvents(), has: map[[32]byte]bool{}}
	sv, err := upstream.ParseServer(server)
	if err != nil {
		return nil, err
	}
	keys := node.Keys{Guix: guixsig.ACL{}.Add(key.Public())}
	o := noded.Options{Servers: []*upstream.Server{sv}, Peers: peers, Node: node.Options{
		Keys: func() (node.Keys, error) { return keys, nil }, Share: node.ShareLAN, ShareKeys: keys, Log: m.events.logger(),
	}}
	service, err := noded.Open(ctx, dir, o)
	if err != nil {
		return nil, err
	}
	if m.cable, err = plug(); err != nil {
		return nil, errors.Join(err, service.Close())
	}
	unix, err := net.Listen("unix", m.socket)
	if err != nil {
		return nil, errors.Join(err, m.cable.Close(), service.Close())
	}
	ctx, m.cancel = context.WithCancel(ctx)
	m.work.Go(func() {
		m.ended = errors.Join(service.Run(ctx, []net.Listener{m.cable}, []net.Listener{unix}), service.Close())
	})
	return m, nil
}

// stop ends the node and waits for it. Ending it again does no harm.
func (m *machine) stop() error {
	m.cancel()
	m.cut(0) // or connections that have had no request yet are waited for
	m.work.Wait()
	return m.ended
}

// tell says in r where an item came from that the node has given. What it had
// not, it has kept by now, or will soon.
func (m *machine) tell(ctx context.Context, i *item, r *result) error {
	if m.has[i.info.NarHash] {
		r.lines = append(r.lines, "kept by node "+m.name)
		return nil
	}
	m.has[i.info.NarHash] = true
	end := time.NewTimer(keepTime)
	defer end.Stop()
	for {
		select {
		case path := <-m.events.kept:
			if path == i.path.String() {
				m.events.take(r)
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return fmt.Errorf("%s: not kept by node %s after %v", i.path, m.name, keepTime)
		}
	}
}
