package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/config"
	"ersatz/internal/fetch"
	"ersatz/internal/stores"
)

// storeEnv is the variable that programs of ERIS look for store URLs in.
const storeEnv = "ERIS_STORE_URL"

// storeURLs reads the values of a flag.
func storeURLs(flag string, values []string) (urls []stores.URL, err error) {
	var errs []error
	for _, v := range values {
		u, err := stores.Parse(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
		urls = append(urls, u)
	}
	return urls, usageError(errors.Join(errs...))
}

// defaultStores returns the store URLs of the environment or else of the
// configuration, for a command line that names none.
func (a *app) defaultStores() ([]stores.URL, error) {
	origin, list := storeEnv, a.getenv(storeEnv)
	if list == "" {
		c, err := config.Load(a.getenv)
		if err != nil {
			return nil, usageError(err)
		}
		origin, list = c.File+": stores", c.Stores
	}
	log, err := a.logger()
	if err != nil {
		return nil, err
	}
	urls, others, err := stores.ParseList(list)
	if err != nil {
		return nil, usageError(fmt.Errorf("%s: %w", origin, err))
	}
	for _, u := range others {
		if origin != storeEnv { // which is not ours alone
			return nil, usageError(fmt.Errorf("%s: store URL %s: scheme is none of %s", origin, u, strings.Join(stores.Schemes(), ", ")))
		}
		log.Warn("store URL of another program passed over", slog.String("url", u))
	}
	return urls, nil
}

// schemeList lists the schemes for a help text, in lines of its own.
func schemeList() string {
	var b strings.Builder
	width := 0
	for i, s := range stores.Schemes() {
		if i > 0 {
			b.WriteString(",")
			if width += len(s) + 2; width > 76 {
				b.WriteString("\n")
				width = 0
			} else {
				b.WriteString(" ")
			}
		}
		b.WriteString(s)
	}
	return b.String()
}

// completeStores makes the shell offer the beginnings of store URLs for a flag.
func completeStores(cmd *cobra.Command, flag string) {
	var starts []string
	for _, s := range stores.Schemes() {
		starts = append(starts, s+":")
	}
	more := cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(starts, more)); err != nil {
		panic(err) // our own misspelling
	}
}

// storesError marks an error of stores as the caller's fault if it is.
func storesError(err error) error {
	if errors.Is(err, stores.ErrInvalid) {
		return usageError(err)
	}
	return err
}

// blockSources are the places that decode gets blocks from.
type blockSources struct {
	dirs    []string
	bundles []string
	ipfs    []string
	from    []string
}

// urls returns the stores, nearest first.
func (s blockSources) urls(a *app) (urls []stores.URL, err error) {
	for _, path := range append(s.dirs, s.bundles...) {
		u, err := stores.File(path)
		if err != nil {
			return nil, err
		}
		urls = append(urls, u)
	}
	for _, api := range s.ipfs {
		u, err := stores.Parse("ipfs+" + api)
		if err != nil {
			return nil, usageError(fmt.Errorf("--ipfs: %w", err))
		}
		urls = append(urls, u)
	}
	more, err := storeURLs("from", s.from)
	if err != nil {
		return nil, err
	}
	if urls = append(urls, more...); len(urls) > 0 {
		return urls, nil
	}
	all, err := a.defaultStores()
	if err != nil {
		return nil, err
	}
	for _, u := range all {
		if u.Gets() {
			urls = append(urls, u)
		}
	}
	if len(urls) == 0 {
		return nil, usageError(fmt.Errorf("no store to get blocks from: name one with --from, or in %s", storeEnv))
	}
	return urls, nil
}

// source asks the stores for the blocks of a content.
func (s blockSources) source(ctx context.Context, a *app, c eris.ReadCap, log *slog.Logger) (_ *source, err error) {
	urls, err := s.urls(a)
	if err != nil {
		return nil, err
	}
	set, err := stores.Open(ctx, stores.Plan{From: urls}, stores.Options{UserAgent: "ersatz/" + version(), Log: log})
	if err != nil {
		return nil, storesError(err)
	}
	where := eris.NewLocator(c)
	want := block.Wanted{ReadCap: c, Servers: stores.Servers(urls), Magnet: stores.Magnet(urls), Where: where.Where}
	src := &source{open: closers{set}}
	var sources []fetch.Source
	options := fetch.Options{Log: log, Stall: minStall}
	for _, n := range set.Sources() {
		found, session, ok := n.Open(want)
		if !ok {
			src.without = append(src.without, n.Name)
			log.Warn("store cannot have the content", slog.String("source", n.Name))
			continue
		}
		src.open = append(closers{session}, src.open...)
		options.Stall = max(options.Stall, stallStarts*n.Start)
		sources = append(sources, found)
	}
	src.mix = fetch.New(sources, options)
	src.blocks = where.Watch(src.mix)
	return src, nil
}

// A source may give nothing for minStall, or for stallStarts times what its
// transport usually takes until the first block: nobody else may have it.
const (
	minStall    = 10 * time.Second
	stallStarts = 10
)

// source is what several stores have of a content. close it.
type source struct {
	blocks  eris.Fetcher
	mix     *fetch.Mix
	open    closers
	without []string // names of those that cannot have it
}

// tellOrigins says what came from where, and adds to an error that no source had a
// block which were asked, and why those that may have had it were given up.
func (s *source) tellOrigins(ctx context.Context, log *slog.Logger, err error) error {
	stats := s.mix.Stats()
	level := slog.LevelInfo
	if len(stats) == 1 {
		level = slog.LevelDebug // there is nothing to compare
	}
	missing := errors.Is(err, eris.ErrNotFound)
	if missing {
		var names []string
		for _, s := range stats {
			names = append(names, s.Name)
		}
		err = fmt.Errorf("%w in %s", err, strings.Join(append(names, s.without...), ", "))
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

// closers are closed together, in order.
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
