// Package demo runs the whole path of ersatz in one temporary folder: a store
// with real files, two servers that bake and publish it, a second store into
// which the items are substituted while servers lie and die, and three nodes that
// have them from each other when no server is left. It needs neither root, nor
// Guix, nor the network, nor any setting.
package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"ersatz/guixsig"
	"ersatz/internal/substitute"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// Options are what may be left out.
type Options struct {
	// Paths are files and folders that become items of the store too.
	Paths []string
	// Level is the zstd level of the servers. Default 9: level 19 takes a
	// minute of the demonstration's time and shows nothing more.
	Level int
	// Keep leaves the temporary folder behind.
	Keep bool
}

// demonstration is one run.
type demonstration struct {
	out     io.Writer
	o       Options
	dir     string
	key     *guixsig.PrivateKey
	store   *store
	servers []*server
	nodes   []*machine
	round   int // substitutions so far
}

// Run runs the demonstration and tells on out what happens. An error means that
// something did not happen as it should.
func Run(ctx context.Context, out io.Writer, o Options) (err error) {
	if o.Level == 0 {
		o.Level = 9
	}
	dir, err := os.MkdirTemp("", "ersatz-demo-")
	if err != nil {
		return err
	}
	d := &demonstration{out: out, o: o, dir: dir}
	defer func() {
		err = errors.Join(err, d.close())
	}()
	for _, step := range []func(context.Context) error{
		d.fillStore, d.publish, d.fromBoth, d.withLiar, d.withoutBlocks, d.untrusted,
		d.throughNode, d.fromNode, d.fromDyingNode, d.alone,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	d.say("Every copy is the same as the first, byte for byte.")
	return nil
}

// close stops the nodes and the servers, and removes the folder.
func (d *demonstration) close() error {
	errs := []error{d.stopNodes()}
	for _, s := range d.servers {
		errs = append(errs, s.stop())
	}
	if d.store != nil {
		errs = append(errs, d.store.close())
	}
	if d.o.Keep {
		d.say("Everything is left in %s.", d.dir)
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, removeAll(d.dir))...)
}

func (d *demonstration) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// fillStore makes the key and the first store.
func (d *demonstration) fillStore(ctx context.Context) error {
	var err error
	if d.key, err = guixsig.GenerateKey(rand.Reader); err != nil {
		return err
	}
	if d.store, err = newStore(filepath.Join(d.dir, "first")); err != nil {
		return err
	}
	d.say("1. A store in %s, with real files:", d.store.dir)
	program, err := os.Executable()
	if err != nil {
		return err
	}
	sample, err := d.addSample(ctx)
	if err != nil {
		return err
	}
	for _, path := range append([]string{program}, d.o.Paths...) {
		if _, err := d.store.add(ctx, path, name(path), sample); err != nil {
			return err
		}
	}
	for _, i := range d.store.items {
		d.say("   %s  %s, nar of %s", i.path.Base(), count(i.files, "file"), size(int64(i.info.NarSize)))
	}
	return nil
}

// name makes a store item's name of a file's.
func name(path string) string {
	clean := strings.Map(func(r rune) rune {
		if storepath.ValidName("x" + string(r)) {
			return r
		}
		return '_'
	}, filepath.Base(path))
	return strings.TrimLeft(clean, ".") + "-demo"
}

// publish starts two servers, each with a cache of its own, and lets them bake.
func (d *demonstration) publish(ctx context.Context) error {
	d.say("2. Two servers bake every item at zstd:%d, encode it as ERIS and sign a narinfo:", d.o.Level)
	for _, n := range []string{"one", "two"} {
		s, err := startServer(ctx, n, filepath.Join(d.dir, "cache-"+n), d.store, d.key, d.o.Level)
		if err != nil {
			return err
		}
		d.servers = append(d.servers, s)
		d.say("   server %s: %s", n, s.url())
	}
	for _, i := range d.store.items {
		var texts [2]*narinfo.Narinfo
		for k, s := range d.servers {
			n, err := s.narinfo(i.path)
			if err != nil {
				return err
			}
			texts[k] = n
		}
		if texts[0].ERIS != texts[1].ERIS {
			return fmt.Errorf("%s: the servers made different blocks", i.path)
		}
		i.urn = texts[0].ERIS
		d.say("   %s  %s, the same name from both:\n     %s", i.path.Base(), size(int64(texts[0].Nars[0].FileSize)), i.urn)
	}
	return nil
}

// fromBoth substitutes from two healthy servers.
func (d *demonstration) fromBoth(ctx context.Context) error {
	d.say("3. Substitute into a second store, from blocks of both servers:")
	for _, i := range d.store.items {
		if _, err := d.install(ctx, i, nil, d.servers[0].url(), d.servers[1].url()); err != nil {
			return err
		}
	}
	return nil
}

// withLiar substitutes while server two changes a bit in each block.
func (d *demonstration) withLiar(ctx context.Context) error {
	d.say("4. The same with a server that changes one bit in every block:")
	d.servers[1].lies.Store(true)
	defer d.servers[1].lies.Store(false)
	r, err := d.install(ctx, d.store.largest(), nil, d.servers[0].url(), d.servers[1].url())
	if err == nil && !r.seen[d.servers[1].url()].dropped {
		err = errors.New("the server that lies was not dropped")
	}
	return err
}

// withoutBlocks substitutes while no server has blocks.
func (d *demonstration) withoutBlocks(ctx context.Context) error {
	d.say("5. Server two stops, server one has lost its blocks; the plain nar is left:")
	if err := d.servers[1].stop(); err != nil {
		return err
	}
	d.servers[0].noBlocks.Store(true)
	defer d.servers[0].noBlocks.Store(false)
	_, err := d.install(ctx, d.store.largest(), nil, d.servers[0].url(), d.servers[1].url())
	return err
}

// untrusted offers a narinfo of which one character was changed.
func (d *demonstration) untrusted(ctx context.Context) error {
	d.say("6. The same server, with one character of the signed URN changed:")
	d.servers[0].forges.Store(true)
	defer d.servers[0].forges.Store(false)
	r, err := d.substitute(ctx, d.store.largest(), nil, d.servers[0].url())
	if err != nil {
		return err
	}
	if r.reply != "not-found" {
		return fmt.Errorf("a forged narinfo was answered with %q", r.reply)
	}
	if _, err := os.Lstat(r.dest); err == nil {
		return errors.New("a forged narinfo left something in the store")
	}
	d.say("   refused:\n     %s", r.reason)
	return nil
}

// install substitutes an item and says what came from where. It wants the item
// to be the same as the first.
func (d *demonstration) install(ctx context.Context, i *item, via *machine, servers ...string) (*result, error) {
	r, err := d.substitute(ctx, i, via, servers...)
	if err != nil {
		return nil, err
	}
	want := fmt.Sprintf("success %s %d", narinfo.FormatHash(i.info.NarHash), i.info.NarSize)
	if r.reply != want {
		return nil, fmt.Errorf("%s: the substituter replied %q, not %q:\n%s", i.path, r.reply, want, r.reason)
	}
	if err := i.compare(r.dest); err != nil {
		return nil, err
	}
	d.say("   %s  same hash, %s", i.path.Base(), narinfo.FormatHash(i.info.NarHash))
	for _, line := range r.lines {
		d.say("     %s", line)
	}
	return r, nil
}

// substitute runs the substituter as guix-daemon does, for one item, into a
// fresh store. If via is not nil, it finds the socket of that node. The servers
// are those of the daemon's setting.
func (d *demonstration) substitute(ctx context.Context, i *item, via *machine, servers ...string) (*result, error) {
	d.round++
	second := filepath.Join(d.dir, fmt.Sprintf("second-%d", d.round))
	if err := os.MkdirAll(second, 0o755); err != nil {
		return nil, err
	}
	acl := filepath.Join(d.dir, "acl")
	if err := os.WriteFile(acl, guixsig.ACL{}.Add(d.key.Public()).Text(), 0o644); err != nil {
		return nil, err
	}
	r := &result{dest: filepath.Join(second, i.path.Base())}
	seen := newEvents()
	o := substitute.Options{ACL: acl, Log: seen.logger()}
	if via != nil {
		o.Node = via.socket
	}
	var messages, replies bytes.Buffer
	s, err := substitute.New(substitute.DaemonOptions{Servers: servers}, &messages, o)
	if err != nil {
		return nil, err
	}
	request := fmt.Sprintf("substitute %s %s\n", i.path, r.dest)
	err = s.Substitute(ctx, strings.NewReader(request), &replies)
	if err := errors.Join(err, s.Close()); err != nil {
		return nil, err
	}
	r.reply = strings.TrimSpace(replies.String())
	r.reason = reason(messages.String())
	seen.take(r)
	switch {
	case r.reason != "":
	case via != nil:
		return r, via.tell(ctx, i, r)
	case len(r.lines) == 0:
		r.lines = []string{"as a plain nar"}
	}
	return r, nil
}
