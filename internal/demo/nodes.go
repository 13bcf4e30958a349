package demo

import (
	"context"
	"errors"
	"path/filepath"
)

// startNode starts a node that knows server one and these peers.
func (d *demonstration) startNode(ctx context.Context, name string, peers ...string) (*machine, error) {
	m, err := start(ctx, name, filepath.Join(d.dir, "node-"+name), d.key, d.servers[0].url(), peers)
	if err == nil {
		d.nodes = append(d.nodes, m)
	}
	return m, err
}

// throughNode starts the nodes, and has the first give what a server has.
func (d *demonstration) throughNode(ctx context.Context) error {
	d.say("7. Three nodes start: all know server one, node two knows node one too, and node three both:")
	one, err := d.startNode(ctx, "one")
	if err != nil {
		return err
	}
	two, err := d.startNode(ctx, "two", one.url())
	if err != nil {
		return err
	}
	if _, err = d.startNode(ctx, "three", one.url(), two.url()); err != nil {
		return err
	}
	for _, m := range d.nodes {
		d.say("   node %s: %s", m.name, m.url())
	}
	d.say("   The substituter asks node one at its socket, which asks server one:")
	return d.installAll(ctx, one, d.servers[0].url())
}

// installAll has a node give all items.
func (d *demonstration) installAll(ctx context.Context, via *machine, servers ...string) error {
	for _, i := range d.store.items {
		if _, err := d.install(ctx, i, via, servers...); err != nil {
			return err
		}
	}
	return nil
}

// fromNode has the second node give what only the first has.
func (d *demonstration) fromNode(ctx context.Context) error {
	d.say("8. Server one stops. Narinfos and blocks through node two, from node one:")
	if err := d.servers[0].stop(); err != nil {
		return err
	}
	one, two := d.nodes[0], d.nodes[1]
	for _, i := range d.store.items {
		r, err := d.install(ctx, i, two, two.url())
		if err != nil {
			return err
		}
		if i == d.store.largest() && r.seen[one.url()].blocks == 0 {
			return errors.New("the blocks are not from node one")
		}
	}
	return nil
}

// fromDyingNode has the third node give what both others have, of which one is
// cut off when it has sent some.
func (d *demonstration) fromDyingNode(ctx context.Context) error {
	d.say("9. Through node three, from both; node one's cable is cut while it sends:")
	one, two, three := d.nodes[0], d.nodes[1], d.nodes[2]
	one.cut(int64(d.store.largest().info.NarSize) / 20)
	for _, i := range d.store.items {
		r, err := d.install(ctx, i, three, three.url())
		if err != nil {
			return err
		}
		if i == d.store.largest() && (!one.isCut() || r.seen[one.url()].blocks == 0 || r.seen[two.url()].blocks == 0) {
			return errors.New("the blocks are not from both nodes, of which one was cut off")
		}
	}
	return nil
}

// alone has the third node give what it has kept.
func (d *demonstration) alone(ctx context.Context) error {
	d.say("10. All nodes stop, and node three starts again. Nobody else is there:")
	three := d.nodes[2]
	if err := d.stopNodes(); err != nil {
		return err
	}
	again, err := d.startNode(ctx, "three")
	if err != nil {
		return err
	}
	again.has = three.has
	return d.installAll(ctx, again, again.url())
}

func (d *demonstration) stopNodes() error {
	var errs []error
	for _, m := range d.nodes {
		errs = append(errs, m.stop())
	}
	return errors.Join(errs...)
}
