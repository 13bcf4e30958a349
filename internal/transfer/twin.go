package transfer

import (
	"context"
	"errors"
	"log/slog"

	"ersatz/internal/keep"
	"ersatz/internal/node"
)

// keepTwin keeps an item of its own for a path whose nar came with another one's:
// what was given to somebody is to be had again by its own name, narinfo and all.
func (t *Transfers) keepTwin(w node.Want) {
	if w.Kept {
		return // another machine asks for what is kept
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.items[w.Choice.Builds[0].Signed.NarHash]
	if t.ctx.Err() != nil || i != nil && i.want.Path == w.Path {
		return
	}
	t.work.Go(func() {
		if i != nil && i.over(t.ctx) != nil {
			return
		}
		// It does not take long, and Close waits for it.
		if err := t.twin(context.WithoutCancel(t.ctx), w); err != nil {
			t.log.Warn("item with the nar of another one is not kept", slog.String("store_path", w.Path.String()), slog.Any("error", err))
		}
	})
}

func (t *Transfers) twin(ctx context.Context, w node.Want) error {
	f, err := t.kept(w)
	if errors.Is(err, keep.ErrNone) {
		return nil // it is larger than the quota, or has gone
	}
	if err != nil {
		return err
	}
	if f.Item.Path != w.Path {
		b := w.Choice.Builds[0]
		record := recordOf(w)
		record.Asked, record.Signed = true, b.Content.URN != "" && b.Content.ReadCap == f.Item.ReadCap
		err = f.Also(ctx, record)
	}
	return errors.Join(err, f.Close())
}

// recordOf returns what is kept of an item.
func recordOf(w node.Want) keep.Item {
	b := w.Choice.Builds[0]
	r := keep.Item{Path: w.Path, NarHash: b.Signed.NarHash, NarSize: int64(b.Signed.NarSize)}
	if len(b.Narinfos) > 0 {
		r.Narinfo, r.Server = b.Narinfos[0].Text, b.Narinfos[0].Server.URL()
	}
	return r
}
