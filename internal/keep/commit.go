package keep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
)

// Tree emits the pairs of all nodes of a tree in the order of eris.Encoder.
type Tree func(emit func(eris.Block) error) error

// Commit makes a finished part an item, whose NarHash was right: from now on
// the store has it. item is what About said, and more; Size and Used are set
// here. tree is that of item.ReadCap; nil makes Commit encode the content,
// under the null secret and with the recommended block size, and set ReadCap,
// and Signed to whether the signed one was that. It returns the item as it is
// kept.
//
// The error matches ErrQuota if the item is larger than all that may be kept:
// the part is gone, but its readers can go on. After another error, the part is
// as it was.
func (p *Part) Commit(ctx context.Context, item Item, tree Tree) (Item, error) {
	err := p.commit(ctx, &item, tree)
	if err != nil {
		return Item{}, fmt.Errorf("keep: %s: %w", item.Path, err)
	}
	p.s.trim()
	return item, nil
}

func (p *Part) commit(ctx context.Context, item *Item, tree Tree) (err error) {
	p.mu.Lock()
	length, gone := p.length, p.gone || p.closed
	p.mu.Unlock()
	switch {
	case gone:
		return ErrClosed
	case length < 0:
		return errors.New("part is not finished")
	}
	item.Size = length
	if item.Format == "" {
		item.Format = compress.Method{Name: item.Method}.Format()
	}
	if p.s.exceeds(length) {
		return errors.Join(ErrQuota, p.drop())
	}
	if err := p.settle(length); err != nil {
		return err
	}
	if tree == nil || !plain(item.ReadCap) {
		tree = encode(ctx, p.content, item)
	}
	content := filepath.Join(p.dir, contentFile)
	err = p.s.publish(ctx, item, tree, placing{
		func(nar string) error { return durable.Rename(content, nar) },
		func(nar string) error { return durable.Rename(nar, content) },
	})
	if err != nil {
		return err
	}
	if err := p.drop(); err != nil {
		// The item is there all the same. What is left is a part of nothing.
		p.s.log.WarnContext(ctx, "rest of a part not removed", slog.String("part", string(p.id)), slog.Any("error", err))
	}
	return nil
}

// drop removes the files of a part.
func (p *Part) drop() error {
	p.mu.Lock()
	p.gone = true
	p.mu.Unlock()
	p.s.mu.Lock()
	p.count(-p.bytes)
	p.s.mu.Unlock()
	return removePart(p.dir)
}

// settle makes the content durable, at its length.
func (p *Part) settle(length int64) error {
	fi, err := p.content.Stat()
	if err != nil {
		return err
	}
	if fi.Size() < length {
		return fmt.Errorf("%d bytes are there, not %d", fi.Size(), length)
	}
	if fi.Size() > length {
		if err := p.content.Truncate(length); err != nil {
			return err
		}
	}
	return p.content.Settle(0o644)
}

// encode returns the tree that a content has, and sets ReadCap when it is emitted.
func encode(ctx context.Context, r io.ReaderAt, item *Item) Tree {
	return func(emit func(eris.Block) error) error {
		content := folder.WithContext(ctx, io.NewSectionReader(r, 0, item.Size))
		rc, _, err := eris.Encode(content, eris.Recommended(item.Size), eris.Secret{}, emit)
		if err != nil {
			return err
		}
		item.Signed = item.Signed && rc == item.ReadCap
		item.ReadCap = rc
		return nil
	}
}

// placing gives a nar its name, and takes it back.
type placing struct{ place, takeBack func(nar string) error }

// publish gives the files their names, the record last, in place of those of an
// item with that hash part. If that fails, the nar is taken back.
func (s *Store) publish(ctx context.Context, item *Item, tree Tree, p placing) (err error) {
	w, err := s.index.NewWriter(item.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Abort()) }()
	if err := tree(w.Add); err != nil {
		return err
	}
	record, err := About{Item: *item, FileSize: item.Size}.encode()
	if err != nil {
		return err
	}
	s.change.Lock() // not before: the tree of a large item takes its time
	defer s.change.Unlock()
	e := &entry{path: item.Path, narHash: item.NarHash, method: item.Method, came: s.now()}
	nar := s.path(e.nar())
	s.begin(item.Path.Hash)
	defer s.end(item.Path.Hash)
	if folder.Exists(s.record(item.Path.Hash)) {
		if err := s.clear(ctx, item.Path.Hash); err != nil {
			return err
		}
	}
	if err := w.Commit(ctx, item.ReadCap, item.Size, e.nar()); err != nil {
		return err
	}
	err = p.place(nar)
	if err == nil {
		err = durable.WriteFile(s.record(item.Path.Hash), 0o644, func(w io.Writer) error {
			_, err := w.Write(record)
			return err
		})
	}
	if err != nil {
		return errors.Join(err, s.takeBack(ctx, item, nar, p))
	}
	if err := s.date(e, item.Asked); err != nil {
		s.log.WarnContext(ctx, "time of a request not noted", slog.Any("error", err))
	}
	item.Used = e.came
	// The item is there now: what fails from here on, Settle makes good.
	if err := s.add(ctx, e, item.Size); err != nil {
		s.log.WarnContext(ctx, "an item is kept and not counted", slog.Any("error", err))
	}
	return nil
}

// date gives a record its times, and the entry those that the file then has: a file
// system may hold less of a time.
func (s *Store) date(e *entry, asked bool) error {
	name, accessed := s.record(e.path.Hash), time.Unix(0, 0)
	if asked {
		accessed = e.came
	}
	err := os.Chtimes(name, accessed, e.came)
	if came, _, timesErr := folder.Times(name); timesErr == nil {
		e.came = came
	}
	if asked {
		e.asked, e.noted = e.came, e.came
	}
	return err
}

// add adds an item to the catalog. The caller has s.change, and has begun.
func (s *Store) add(ctx context.Context, e *entry, length int64) error {
	ctx = context.WithoutCancel(ctx) // the item is there, whoever wanted it
	err := s.cards.put(ctx, e.card(length, s.allocated(e)))
	s.mu.Lock()
	s.knowLocked(e)
	s.mu.Unlock()
	return errors.Join(err, s.count())
}

// takeBack undoes what publish has done, the record first: where that stays,
// the item is whole and stays too.
func (s *Store) takeBack(ctx context.Context, item *Item, nar string, p placing) error {
	steps := []func() error{
		func() error { return durable.Remove(s.record(item.Path.Hash)) },
		func() error { return p.takeBack(nar) },
		func() error { return s.index.Remove(ctx, item.Path.Hash) },
	}
	for _, step := range steps {
		if err := step(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
