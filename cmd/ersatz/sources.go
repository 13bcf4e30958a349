package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/dirstore"
	"ersatz/internal/fetch"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/n2r"
)

// dirReads is how many blocks are read from a folder at once.
const dirReads = 4

// blockSources are the places that decode gets blocks from.
type blockSources struct {
	dirs    []string
	bundles []string
	servers []string
	ipfs    []string
}

// open returns the sources, nearest first, and what is to be closed afterwards.
func (s blockSources) open(log *slog.Logger) (sources []fetch.Source, open closers, err error) {
	for _, dir := range s.dirs {
		store, err := dirstore.Open(dir)
		if err != nil {
			return nil, nil, errors.Join(err, open.Close())
		}
		open = append(open, store)
		sources = append(sources, fetch.Source{Name: dir, Fetcher: block.Fetcher(store, dirReads)})
	}
	for _, name := range s.bundles {
		wrong := 0
		b, err := openBundle(name, tellWrong(&wrong, func(err error) { log.Warn("wrong block", slog.Any("error", err)) }))
		if err != nil {
			return nil, nil, errors.Join(err, open.Close())
		}
		if wrong > maxWrong {
			log.Warn("wrong blocks", slog.String("bundle", name), slog.Int("count", wrong))
		}
		open = append(open, b)
		sources = append(sources, fetch.Source{Name: name, Fetcher: b.index.Fetcher(b.at)})
	}
	for _, api := range s.ipfs {
		c, err := ipfs.New(api, nil)
		if err != nil {
			return nil, nil, errors.Join(usageError(fmt.Errorf("--ipfs: %w", err)), open.Close())
		}
		sources = append(sources, fetch.Source{Name: c.String(), Fetcher: c})
	}
	hc := httpclient.New(httpclient.Options{UserAgent: "ersatz/" + version()})
	open = append(open, closerFunc(hc.CloseIdleConnections))
	for _, url := range s.servers {
		c, err := n2r.New(url, hc)
		if err != nil {
			return nil, nil, errors.Join(usageError(fmt.Errorf("--from: %w", err)), open.Close())
		}
		sources = append(sources, fetch.Source{Name: c.String(), Fetcher: c})
	}
	return sources, open, nil
}

// tellOrigins says what came from where, and adds to an error that no source had a
// block which were asked, and why those that may have had it were given up.
func tellOrigins(ctx context.Context, log *slog.Logger, stats []fetch.Stat, err error) error {
	level := slog.LevelInfo
	if len(stats) == 1 {
		level = slog.LevelDebug // there is nothing to compare
	}
	missing := errors.Is(err, eris.ErrNotFound)
	if missing {
		names := make([]string, len(stats))
		for i, s := range stats {
			names[i] = s.Name
		}
		err = fmt.Errorf("%w in %s", err, strings.Join(names, ", "))
	}
	for _, s := range stats {
		attrs := []slog.Attr{slog.String("source", s.Name), slog.Int64("blocks", s.Blocks), slog.Int64("bytes", s.Bytes)}
		if s.Err != nil {
			attrs = append(attrs, slog.Any("error", s.Err))
			if missing {
				err = errors.Join(err, s.Err)
			}
		}
		log.LogAttrs(ctx, level, "source of blocks", attrs...)
	}
	return err
}

// closers are closed together.
type closers []io.Closer

func (c closers) Close() error {
	var errs []error
	for _, x := range c {
		errs = append(errs, x.Close())
	}
	return errors.Join(errs...)
}

// closerFunc is an io.Closer made of a function.
type closerFunc func()

func (f closerFunc) Close() error {
	f()
	return nil
}
