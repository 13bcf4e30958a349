package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"

	"ersatz/internal/bench/netlab"
	"ersatz/internal/realguix"
	"ersatz/storepath"
)

// origin is a host that runs ersatz publish.
type origin struct {
	*netHost
	url    string
	server *realguix.Server
	pid    int // as this machine has it
	client *http.Client
	sizes  map[storepath.Path]int64 // of compressed nars, bytes
}

// packed returns the size of items as the origin sends them.
func (o *origin) packed(items ...item) (size int64) {
	for _, i := range items {
		size += o.sizes[i.Path]
	}
	return size
}

const originPort = 8080

// origin adds a host whose store fill fills, and waits until all is baked.
func (n *network) origin(ctx context.Context, link netlab.Link, fill func(*shelf) ([]item, error)) (*origin, []item, error) {
	h, err := n.host(ctx, "origin", link)
	if err != nil {
		return nil, nil, err
	}
	s, err := newShelf(h.machine)
	if err != nil {
		return nil, nil, err
	}
	items, err := fill(s)
	if err := errors.Join(err, s.close()); err != nil {
		return nil, nil, err
	}
	o := &origin{netHost: h, sizes: map[storepath.Path]int64{}, client: &http.Client{Transport: &http.Transport{DialContext: h.Dial}}}
	n.cleanup = append(n.cleanup, func() error { o.client.CloseIdleConnections(); return nil })
	if err := n.serve(ctx, o); err != nil {
		return nil, nil, err
	}
	// What is asked from the host itself does not go over its line.
	var paths []storepath.Path
	for _, i := range items {
		paths = append(paths, i.Path)
	}
	if err := bakeAll(ctx, o.client, o.url, paths); err != nil {
		return nil, nil, err
	}
	for _, i := range items {
		info, err := bake(ctx, o.client, o.url, i.Path)
		if err != nil {
			return nil, nil, err
		}
		o.sizes[i.Path] = int64(info.Nars[0].FileSize)
	}
	return o, items, nil
}

// serve starts publish; its cache outlives it.
func (n *network) serve(ctx context.Context, o *origin) error {
	addr := fmt.Sprintf("%s:%d", o.Addr(), originPort)
	var cmd *exec.Cmd
	server, err := realguix.ServeAt(ctx, addr, o.Dial, func(ctx context.Context) *exec.Cmd {
		cmd = o.machine.Command(ctx, "ersatz", "publish", "--listen="+o.Addr().String(), fmt.Sprintf("--port=%d", originPort),
			"--cache=/var/cache/ersatz", "--compression=zstd:3")
		return cmd
	})
	if err != nil {
		return err
	}
	n.cleanup = append(n.cleanup, func() error { server.Stop(); return nil })
	o.server, o.url = server, server.URL
	o.pid, err = onlyChild(cmd.Process.Pid)
	return err
}
