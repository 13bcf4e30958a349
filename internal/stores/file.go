package stores

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"ersatz/eriscbor"
	"ersatz/internal/block"
	"ersatz/internal/block/dirstore"
	"ersatz/internal/fetch"
	"ersatz/internal/share"
)

// fileReads is how many blocks are read from a folder at once, and maxWrong how
// many wrong ones of a bundle are named one by one.
const (
	fileReads = 4
	maxWrong  = 10
)

func fileSchemes() []scheme {
	return []scheme{{
		name: schemeFile, form: "file:///FOLDER or file:///BUNDLE",
		uses:  useFrom | useTo | useServe,
		check: checkFile,
		open:  openFile,
	}}
}

func checkFile(u *URL) error {
	if !filepath.IsAbs(u.path) {
		return errors.New("has no absolute path, as file:///FOLDER has")
	}
	u.path = filepath.Clean(u.path)
	return nil
}

// File returns the URL of a folder of blocks, or a bundle, by its path.
func File(path string) (URL, error) {
	path, err := filepath.Abs(path)
	return URL{scheme: schemeFile, path: path, get: true}, err
}

func openFile(_ context.Context, s *Set, u URL, uses use) error {
	if fi, err := os.Stat(u.path); err == nil && !fi.IsDir() {
		if uses.has(useTo | useServe) {
			return invalid("is a file: a bundle is read here, and not written")
		}
		return s.openBundle(u)
	}
	open := dirstore.Open
	if uses.has(useTo | useServe) {
		open = dirstore.Create
	}
	store, err := open(u.path)
	if err != nil {
		return err
	}
	s.onClose(store.Close)
	if uses.has(useFrom) {
		s.source(u, block.Everything(block.Fetcher(store, fileReads)), fetch.Network{Near: true})
	}
	if uses.has(useTo) {
		s.putter(u, store)
	}
	if uses.has(useServe) {
		s.sink(u, share.Sink{Net: share.Plain(putAll{store}), Keeps: true})
	}
	return nil
}

// openBundle adds a bundle of blocks as a source.
func (s *Set) openBundle(u URL) error {
	f, err := os.Open(u.path)
	if err != nil {
		return err
	}
	s.onClose(f.Close)
	if _, err := f.Seek(0, io.SeekCurrent); err != nil {
		return invalid("blocks are read at any place, which needs a file, not a pipe")
	}
	wrong := 0
	index, err := eriscbor.ReadIndex(f, func(err error) {
		if wrong++; wrong <= maxWrong {
			s.o.Log.Warn("wrong block", slog.String("bundle", u.path), slog.Any("error", err))
		}
	})
	if err != nil {
		return err
	}
	if wrong > maxWrong {
		s.o.Log.Warn("wrong blocks", slog.String("bundle", u.path), slog.Int("count", wrong))
	}
	s.source(u, block.Everything(index.Fetcher(f)), fetch.Network{Near: true})
	return nil
}

// putAll is a block.Sink that puts each block of a content. It takes nothing
// back: contents share blocks.
type putAll struct{ to block.Putter }

func (p putAll) Offer(ctx context.Context, c block.Shared, open func(context.Context) (block.Content, error)) (err error) {
	content, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	for place := range content.Len() {
		ref, data, err := content.Block(ctx, place)
		if err != nil {
			return err
		}
		if err := p.to.Put(ctx, ref, data); err != nil {
			return fmt.Errorf("block %s: %w", ref, err)
		}
	}
	return nil
}

func (putAll) Withdraw(context.Context, block.Shared) error { return nil }
