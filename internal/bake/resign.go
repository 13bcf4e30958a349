package bake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"ersatz/eris"
	"ersatz/internal/block/narindex"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/internal/torrent"
	"ersatz/narinfo"
)

// change is what is to be done to narinfos. The caller has claimed the item.
type change struct {
	done string // what the log says then

	// due reports whether a narinfo is to be changed, of which nothing is
	// verified yet.
	due func(n *narinfo.Narinfo, hash string) bool

	// text returns what it is to be, nil if it stays. signed is what a Signature
	// by the key of Guix covers of it.
	text func(ctx context.Context, n *narinfo.Narinfo, signed narinfo.Signed) ([]byte, error)
}

// resign brings the narinfos of what was baked before up to what the cache is
// told now: the Sig line, if there was no key of Nix or another one, and the
// magnet link, each time that it is told of other roots. What is signed is what
// a Signature by the key of Guix covers, so without that key nothing is.
func (c *Cache) resign(ctx context.Context) {
	if c.signer.Guix == nil {
		return
	}
	if c.signer.Nix != nil {
		c.rewrite(ctx, change{"baked items signed for Nix", c.sigDue, c.withSig})
	}
	moved := (<-chan struct{})(c.ahead.known)
	var again <-chan time.Time
	for c.o.Torrents { // after that: it reads each item that has no torrent
		select {
		case <-moved:
		case <-again:
		case <-ctx.Done():
			return
		}
		moved, again = c.aheadMoved(), nil
		if !c.rewrite(ctx, change{"magnet links of baked items signed or taken out", c.magnetDue, c.withMagnet}) {
			again = time.After(brokenFor)
		}
	}
}

// rewrite changes the narinfos of all baked items, as far as the disk is not full,
// and reports whether nothing failed.
func (c *Cache) rewrite(ctx context.Context, change change) bool {
	count, full := 0, false
	err := narinfos(c.dir, func(hash string) error {
		if full { // for the others as well, however long it takes to read them
			return nil
		}
		for wait := c.claim(hash); wait != nil; wait = c.claim(hash) {
			select {
			case <-wait:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		defer c.release(hash)
		if err := ctx.Err(); err != nil {
			return err
		}
		changed, err := c.rewriteOne(ctx, hash, change)
		if changed {
			count++
			c.notify() // it may be hours until all are
		}
		full = isFull(err)
		return err
	})
	if count > 0 {
		c.log.InfoContext(ctx, change.done, slog.Int("items", count))
	}
	c.kick() // the putter has passed over what was claimed
	if err != nil && ctx.Err() == nil {
		c.log.ErrorContext(ctx, "not all "+change.done, slog.Any("error", err))
	}
	return err == nil
}

// rewriteOne changes one narinfo, and reports whether it did. It leaves alone
// what is not signed by the key of Guix: fsck reports that. It does not count as
// a request.
func (c *Cache) rewriteOne(ctx context.Context, hash string, change change) (bool, error) {
	name := c.path(c.Narinfo(hash))
	text, err := folder.Read(name, narinfo.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // expired meanwhile
	}
	if err != nil {
		return false, err
	}
	n, err := narinfo.Parse(text)
	if err != nil || !change.due(n, hash) {
		return false, nil
	}
	signed, err := n.VerifyGuix(c.signer.Keys().Guix)
	if err != nil || signed.StorePath.Hash != hash || !signed.HasNarSize {
		return false, nil
	}
	now, err := change.text(ctx, n, signed)
	if err != nil || now == nil {
		return false, err
	}
	asked, err := folder.AccessTime(name)
	if err != nil {
		return false, err
	}
	err = durable.WriteFile(name, 0o644, func(w io.Writer) error {
		_, err := w.Write(now)
		return err
	})
	if err != nil {
		return false, err
	}
	return true, folder.SetAccessTime(name, asked)
}

// belowSignature returns what stands below the Signature line.
func belowSignature(n *narinfo.Narinfo) []byte {
	rest := n.Text()[len(n.SignedPart()):]
	return rest[bytes.IndexByte(rest, '\n')+1:]
}

func (c *Cache) sigDue(n *narinfo.Narinfo, _ string) bool {
	_, err := n.VerifyNix(c.signer.Keys().Nix)
	return err != nil
}

// withSig adds the Sig line.
func (c *Cache) withSig(_ context.Context, n *narinfo.Narinfo, signed narinfo.Signed) ([]byte, error) {
	sig := narinfo.Fields{
		StorePath: signed.StorePath, NarHash: signed.NarHash, NarSize: signed.NarSize, References: signed.References,
	}.SignNix(*c.signer.Nix)
	below := belowSignature(n)
	above := n.Text()[:len(n.Text())-len(below)]
	return slices.Concat(above, sig, below), nil
}

func (c *Cache) magnetDue(n *narinfo.Narinfo, hash string) bool {
	if !c.linked(hash) {
		return n.ERISMagnet != ""
	}
	rc, err := eris.ParseURN(n.ERIS)
	if err != nil {
		return false
	}
	m, err := torrent.ParseMagnet(n.ERISMagnet)
	return err != nil || m.Name != torrent.Name(rc.Root) || !slices.Equal(m.Trackers, c.o.Trackers)
}

// withMagnet sets the magnet link, or takes it out, and signs anew. An item that
// is broken is for fsck, and so is a link that is not signed.
func (c *Cache) withMagnet(ctx context.Context, n *narinfo.Narinfo, signed narinfo.Signed) ([]byte, error) {
	if signed.ERISMagnet != n.ERISMagnet {
		return nil, nil
	}
	link := ""
	if hash := signed.StorePath.Hash; c.linked(hash) {
		var err error
		link, err = c.makeMagnet(ctx, hash, nil)
		switch {
		case errors.Is(err, eris.ErrCorrupt), errors.Is(err, fs.ErrNotExist), errors.Is(err, narindex.ErrNoItem):
			return nil, nil
		case err != nil || link == "":
			return nil, err
		}
	}
	var body bytes.Buffer
	for line := range bytes.Lines(n.SignedPart()) {
		if !bytes.HasPrefix(line, []byte("ERISMagnet:")) {
			body.Write(line)
		}
	}
	if link != "" {
		fmt.Fprintf(&body, "ERISMagnet: %s\n", link)
	}
	text, err := narinfo.SignGuix(body.Bytes(), c.signer.Guix, c.signer.Host)
	return append(text, belowSignature(n)...), err
}
