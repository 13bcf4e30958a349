package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/realguix"
	"ersatz/internal/storedb"
	"ersatz/nar"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

// kitchen is a store of our own, in memory, whose items a server bakes.
type kitchen struct {
	o     Options
	dir   string
	store string
	db    *storedb.Scratch
	key   *guixsig.PrivateKey
}

func newKitchen(o Options) (k *kitchen, err error) {
	k = &kitchen{o: o}
	if k.key, err = guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 32))); err != nil {
		return nil, err
	}
	if k.dir, err = memoryDir(5 << 30); err != nil {
		return nil, err
	}
	k.store = filepath.Join(k.dir, "store")
	if err = os.Mkdir(k.store, 0o755); err == nil {
		k.db, err = storedb.Create(filepath.Join(k.dir, "guix"))
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(k.dir))
	}
	return k, nil
}

func (k *kitchen) close() error { return errors.Join(k.db.Close(), os.RemoveAll(k.dir)) }

// add makes an item and returns it with the size of its nar.
func (k *kitchen) add(ctx context.Context, name string, tree func(path string) error) (storepath.Path, int64, error) {
	sum := sha256.Sum256([]byte(name))
	p := storepath.Path{Dir: k.store, Hash: nixbase32.Encode(sum[:20]), Name: name}
	if err := tree(p.String()); err != nil {
		return p, 0, err
	}
	n, err := nar.Dump(io.Discard, p.String())
	if err != nil {
		return p, 0, err
	}
	return p, n.Size, k.db.Register(ctx, storedb.Info{Path: p, NarHash: n.Hash, NarSize: uint64(n.Size), Registered: time.Unix(1, 0)})
}

// files makes n items of one file each, whose sizes size says.
func (k *kitchen) files(ctx context.Context, name string, n int, size func(i int) int64) ([]storepath.Path, error) {
	var paths []storepath.Path
	for i := range n {
		p, _, err := k.add(ctx, fmt.Sprintf("%s-%d", name, i), func(path string) error {
			return realguix.MakeFile(path, uint64(i), size(i))
		})
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// cook is a server with an empty cache.
type cook struct {
	*server
	cache string
}

func (k *kitchen) cook(ctx context.Context, method string, workers int) (*cook, error) {
	public, private, err := crowdKeys(k.dir, k.key)
	if err != nil {
		return nil, err
	}
	cache, err := os.MkdirTemp(k.dir, "cache-")
	if err != nil {
		return nil, err
	}
	s, err := serveBy(ctx, func(ctx context.Context, port string) *exec.Cmd {
		return ersatzCommand(ctx, k.o.Ersatz, "publish", "--listen=127.0.0.1", "--port="+port, "--cache="+cache,
			"--store="+k.store, "--state="+filepath.Join(k.dir, "guix"), "--public-key="+public, "--private-key="+private,
			"--compression="+method, fmt.Sprintf("--workers=%d", workers))
	})
	if err != nil {
		return nil, err
	}
	return &cook{s, cache}, nil
}

func (c *cook) stop() error {
	c.Stop()
	return os.RemoveAll(c.cache)
}

// order has the server begin to bake an item.
func (c *cook) order(ctx context.Context, p storepath.Path) error {
	_, err := fetch(ctx, c.client, c.URL+"/"+p.Hash+".narinfo")
	return err
}

// ready reports whether an item is baked.
func (c *cook) ready(p storepath.Path) bool {
	_, err := os.Stat(filepath.Join(c.cache, p.Hash+".narinfo"))
	return err == nil
}

// bake has the server bake items, as many as its queue takes at once, and
// returns what that took.
func (c *cook) bake(ctx context.Context, paths ...storepath.Path) (usage, error) {
	const queue = 50
	before, err := cpuWithChildren(c.pid)
	if err != nil {
		return usage{}, err
	}
	memory := watchMemory(c.pid)
	begin := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := 0; i < len(paths); i += queue {
		part := paths[i:min(i+queue, len(paths))]
		for _, p := range part {
			if err := c.order(ctx, p); err != nil {
				return usage{}, err
			}
		}
		for _, p := range part {
			for !c.ready(p) {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return usage{}, fmt.Errorf("waiting until %s is baked: %w", p, ctx.Err())
				}
			}
		}
	}
	u := usage{wall: time.Since(begin)}
	after, err := cpuWithChildren(c.pid)
	if err != nil {
		return u, err
	}
	u.cpu = after - before
	u.peak, err = memory()
	return u, err
}
