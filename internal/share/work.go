package share

import (
	"context"
	"errors"
	"log/slog"

	"ersatz/eris"
	"ersatz/internal/block"
)

// work does what is to be done, one thing after another, until ctx ends.
func (q *queue) work(ctx context.Context) {
	for {
		t, ok := q.next(ctx)
		if !ok {
			return
		}
		var err error
		if t.back {
			err = q.withdraw(ctx, *t.c)
		} else {
			err = q.offer(ctx, *t.c)
		}
		switch {
		case err == nil:
			q.succeed(t)
		case ctx.Err() != nil:
			q.drop(t)
		default:
			q.report(ctx, t, err)
		}
	}
}

// report notes and logs why a task failed.
func (q *queue) report(ctx context.Context, t task, err error) {
	full := errors.Is(err, block.ErrFull)
	content := full || errors.Is(err, eris.ErrNotFound) || errors.Is(err, eris.ErrCorrupt)
	after, news := q.fail(t, err, !content)
	attrs := []any{slog.String("root", t.c.ReadCap.Root.String()), slog.Any("error", err), slog.Duration("again_in", after)}
	switch {
	case errors.Is(err, eris.ErrNotFound):
		q.log.DebugContext(ctx, "content has gone", attrs...) // the next listing says so
	case !news:
		q.log.DebugContext(ctx, "network failed, or is full, for another one too", attrs...)
	case full:
		q.log.WarnContext(ctx, "network is full", attrs...)
	case content:
		q.log.ErrorContext(ctx, "content not offered: run fsck", attrs...)
	case t.back:
		q.log.WarnContext(ctx, "content not withdrawn", attrs...)
	default:
		q.log.WarnContext(ctx, "content not offered", attrs...)
	}
}

func (q *queue) offer(ctx context.Context, s block.Shared) error {
	root := s.ReadCap.Root
	note, err := q.Net.Offer(ctx, s, func(ctx context.Context) (block.Content, error) { return q.lib.Open(ctx, root) })
	if err != nil {
		return err
	}
	q.log.DebugContext(ctx, "content offered", slog.String("root", root.String()))
	if q.state == nil {
		return nil
	}
	// What was done is noted even if all ends now.
	if err := q.state.put(context.WithoutCancel(ctx), q.Name, s, note); err != nil {
		q.log.WarnContext(ctx, "what was offered is not remembered", slog.Any("error", err))
	}
	return nil
}

func (q *queue) withdraw(ctx context.Context, s block.Shared) error {
	root := s.ReadCap.Root
	note := ""
	if q.state != nil {
		var err error
		if note, err = q.state.note(ctx, q.Name, root); err != nil {
			return err
		}
	}
	if err := q.Net.Withdraw(ctx, s, note); err != nil {
		return err
	}
	q.log.DebugContext(ctx, "content withdrawn", slog.String("root", root.String()))
	if q.state == nil {
		return nil
	}
	if err := q.state.forget(context.WithoutCancel(ctx), q.Name, root); err != nil {
		q.log.WarnContext(ctx, "what was withdrawn is not remembered", slog.Any("error", err))
	}
	return nil
}
