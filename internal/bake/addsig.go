package bake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"

	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/narinfo"
)

// signForNix adds the Sig line to entries that were baked before there was a key
// of Nix, or with another one. What is signed is what a Signature by the key of
// Guix covers, so without that key nothing is.
func (c *Cache) signForNix(ctx context.Context) {
	if c.signer.Nix == nil || c.signer.Guix == nil {
		return
	}
	count := 0
	err := narinfos(c.dir, func(hash string) error {
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
		added, err := c.addSig(hash)
		if added {
			count++
		}
		return err
	})
	if count > 0 {
		c.log.InfoContext(ctx, "baked items signed for Nix", slog.Int("items", count))
	}
	if err != nil && ctx.Err() == nil {
		c.log.ErrorContext(ctx, "signing baked items for Nix", slog.Any("error", err))
	}
}

// addSig adds the Sig line to an entry that the caller has claimed, and reports
// whether it did. It leaves alone what is not signed by the key of Guix: fsck
// reports that. It does not count as a request.
func (c *Cache) addSig(hash string) (bool, error) {
	name := c.path(c.Narinfo(hash))
	text, err := folder.Read(name, narinfo.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // expired meanwhile
	}
	if err != nil {
		return false, err
	}
	keys := c.signer.Keys()
	n, err := narinfo.Parse(text)
	if err != nil {
		return false, nil
	}
	if _, err := n.VerifyNix(keys.Nix); err == nil {
		return false, nil
	}
	signed, err := n.VerifyGuix(keys.Guix)
	if err != nil || signed.StorePath.Hash != hash || !signed.HasNarSize {
		return false, nil
	}
	sig := narinfo.Fields{
		StorePath: signed.StorePath, NarHash: signed.NarHash, NarSize: signed.NarSize, References: signed.References,
	}.SignNix(*c.signer.Nix)
	end := len(n.SignedPart())
	end += bytes.IndexByte(text[end:], '\n') + 1
	asked, err := folder.AccessTime(name)
	if err != nil {
		return false, err
	}
	err = durable.WriteFile(name, 0o644, func(w io.Writer) error {
		for _, part := range [][]byte{text[:end], sig, text[end:]} {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	return true, folder.SetAccessTime(name, asked)
}
