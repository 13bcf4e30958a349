// Package bundle carries store items from machine to machine in one file, such
// as on a USB stick: the blocks of their compressed nars, and a manifest with
// their signed narinfos. docs/bundles.md describes what such a file holds.
//
// Export takes items from substitute servers; Import puts them into a folder
// that is one. Nothing in a bundle is trusted: blocks by their hashes, narinfos
// by their signatures, nars by the signed NarHash.
package bundle

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"ersatz/eris"
	"ersatz/eriscbor"
	"ersatz/internal/folder"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// Errors that a caller tells apart.
var (
	// ErrMissing means that items cannot be had; nothing was written.
	ErrMissing = errors.New("cannot be had")
	// ErrTooMany means that there are more than MaxItems, or that their narinfos
	// are larger than a manifest may be; nothing was written.
	ErrTooMany = fmt.Errorf("more than %d store items, or narinfos of more than %d bytes", MaxItems, maxManifest)
)

const (
	// batch is how many narinfos are asked for at once.
	batch = 1024
	// maxReasons bounds the items that an error names.
	maxReasons = 10
)

// ExportOptions are what may be left out.
type ExportOptions struct {
	// Have are items that the receiver has; what they refer to is had only if it
	// is among them. Default: none.
	Have map[storepath.Path]bool

	// Progress is told how many of the items are done; the total grows while
	// narinfos are looked up. Default: nobody is told.
	Progress func(done, total int)

	// Log takes what an operator acts on. Default: nothing is logged.
	Log *slog.Logger
}

// Exported is what a bundle was made of.
type Exported struct {
	Items  []ExportedItem `json:"items"`
	Had    int            `json:"had"`    // items that were left out
	Blocks int            `json:"blocks"` // distinct ones, those of the manifest among them
	Bytes  int64          `json:"bytes"`  // size of the bundle
}

// ExportedItem is an item of a bundle.
type ExportedItem struct {
	Path   string `json:"path"`
	URN    string `json:"urn"`
	Format string `json:"format"`
	From   string `json:"from"` // URN or URL that it came by
}

// found is an item and what counts of it.
type found struct {
	path  storepath.Path
	build *upstream.Build
}

// exporter is an Export that goes on.
type exporter struct {
	client  *upstream.Client
	servers []*upstream.Server
	judge   upstream.Judge
	o       ExportOptions
	out     *eriscbor.Writer
	left    int // bytes that may be held of narinfos, which servers make as long as they like
	done    Exported
}

// Export writes a bundle of the items at paths and of all that they refer to.
// Narinfos are taken from the servers if judge has them count; all are looked
// up before anything is written. The error matches ErrMissing or ErrTooMany, or
// is that of the sources of one item, of w, or of ctx; what is written is of no
// use then.
func Export(ctx context.Context, w io.Writer, client *upstream.Client, servers []*upstream.Server, paths []storepath.Path, judge upstream.Judge, o ExportOptions) (Exported, error) {
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	e := &exporter{client: client, servers: servers, judge: judge, o: o, left: maxManifest, done: Exported{Items: []ExportedItem{}}}
	items, err := e.closure(ctx, paths)
	if err != nil {
		return Exported{}, err
	}
	e.out = eriscbor.NewWriter(w)
	manifest := []byte(magic)
	var caps []eris.ReadCap
	for i, item := range items {
		entry, err := e.item(ctx, item)
		if err != nil {
			return Exported{}, fmt.Errorf("%s: %w", item.path, err)
		}
		manifest = entry.append(manifest)
		caps = append(caps, entry.content)
		o.Progress(i+1, len(items))
	}
	head, err := e.encode(manifest)
	if err != nil {
		return Exported{}, err
	}
	if err := e.out.Finish(append([]eris.ReadCap{head}, caps...)...); err != nil {
		return Exported{}, err
	}
	e.done.Blocks, e.done.Bytes = e.out.Blocks(), e.out.Size()
	return e.done, nil
}

// encode adds a content that is in memory.
func (e *exporter) encode(content []byte) (eris.ReadCap, error) {
	enc := eris.NewEncoder(eris.Recommended(int64(len(content))), eris.Secret{}, e.out.Emit)
	if _, err := enc.Write(content); err != nil {
		return eris.ReadCap{}, err
	}
	return enc.Finish()
}

// closure looks up the items and what they refer to, and leaves out what the
// receiver has.
func (e *exporter) closure(ctx context.Context, paths []storepath.Path) ([]found, error) {
	var items []found
	var queue []storepath.Path
	var missing []error
	seen := map[storepath.Path]bool{}
	add := func(paths []storepath.Path) {
		for _, p := range paths {
			if !seen[p] {
				seen[p] = true
				queue = append(queue, p)
			}
		}
	}
	for add(paths); len(queue) > 0; {
		if len(seen) > MaxItems {
			return nil, ErrTooMany
		}
		asked := queue[:min(batch, len(queue))]
		queue = queue[len(asked):]
		answers := e.client.Ask(ctx, e.servers, asked)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for i, p := range asked {
			had := e.o.Have[p]
			if had {
				e.done.Had++
			}
			build, err := e.choose(p, answers[i])
			switch {
			case err == nil && !had:
				items = append(items, found{p, build})
				for _, n := range build.Narinfos {
					e.left -= len(n.Text) + 3*maxLine
				}
			case err != nil && !had:
				missing = append(missing, err)
			}
			if err == nil {
				add(references(p, build.Signed))
			}
		}
		if e.left < 0 {
			return nil, ErrTooMany
		}
		e.o.Progress(0, len(items)+len(queue))
	}
	if len(missing) > 0 {
		return nil, errMissing(missing, len(seen))
	}
	return items, nil
}

func errMissing(missing []error, of int) error {
	n := len(missing)
	if n > maxReasons {
		missing = append(missing[:maxReasons], errors.New("…"))
	}
	return fmt.Errorf("%d of %d store items %w:\n%w", n, of, ErrMissing, errors.Join(missing...))
}

// choose returns the build of an item that is taken.
func (e *exporter) choose(p storepath.Path, answers []upstream.Answer) (*upstream.Build, error) {
	c := upstream.Choose(p, answers, e.judge)
	if len(c.Builds) == 0 {
		err := errors.Join(c.Refused...)
		if err == nil {
			err = errors.New("no server has it")
		}
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	build := c.Builds[0]
	err := checkSigned(build.Signed)
	if err == nil && len(e.ways(build)) == 0 {
		err = errors.New("no server offers its nar")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	return build, nil
}

// references returns what an item refers to, without itself, and without holding the
// narinfo. What is no store path is for the receiver's daemon to refuse.
func references(p storepath.Path, s narinfo.Signed) (refs []storepath.Path) {
	for _, base := range s.References {
		if r, err := storepath.ParseBase(p.Dir, strings.Clone(base)); err == nil && r != p {
			refs = append(refs, r)
		}
	}
	return refs
}

// item adds the blocks of an item, from the first of its ways that gives the
// right nar. What a wrong one has left in the bundle is named by nothing.
func (e *exporter) item(ctx context.Context, item found) (entry, error) {
	n, err := narinfo.Parse(item.build.Narinfos[0].Text) // the one that counts
	if err != nil {
		return entry{}, err
	}
	var errs []error
	for _, way := range e.ways(item.build) {
		rc, err := e.take(ctx, way, item.build.Signed)
		if err == nil {
			e.done.Items = append(e.done.Items, ExportedItem{item.path.String(), rc.URN(), way.method.Format(), way.name})
			return entry{rc, way.method, n.Portable()}, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", way.name, err))
		if ctx.Err() != nil {
			break
		}
	}
	return entry{}, errors.Join(errs...)
}

// take adds the blocks of a nar. They are made anew of the content, in the order
// of its tree, so that the same items make the same bundle, wherever they are
// from.
func (e *exporter) take(ctx context.Context, way way, s narinfo.Signed) (rc eris.ReadCap, err error) {
	body, err := way.open(ctx)
	if err != nil {
		return rc, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	content := bufio.NewReaderSize(folder.WithContext(ctx, body), 64<<10)
	if way.size == 0 {
		start, err := content.Peek(16 << 10)
		if err != nil && !errors.Is(err, io.EOF) {
			return rc, err
		}
		way.size = eris.Recommended(int64(len(start)))
	}
	enc := eris.NewEncoder(way.size, eris.Secret{}, e.out.Emit)
	if err := copyNar(enc, content, way.method.Name, s); err != nil {
		return rc, err
	}
	return enc.Finish()
}
