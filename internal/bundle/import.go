package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"ersatz/eris"
	"ersatz/eriscbor"
	"ersatz/internal/compress"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// ImportOptions are what may be left out.
type ImportOptions struct {
	// Progress is told how many of the items are done. Default: nobody is told.
	Progress func(done, total int)
}

// maxStoreDir bounds the folder of a store path, in bytes: what became of each
// item is held until the end.
const maxStoreDir = 255

// What became of an item.
const (
	StateImported = "imported"
	StatePresent  = "present" // it was there
	StateDiffers  = "differs" // the folder has another build of it, which stays
	StateFailed   = "failed"  // its bytes are missing or wrong
	StateRefused  = "refused" // its narinfo does not count
)

// Imported is what became of a bundle.
type Imported struct {
	Items  []ImportedItem `json:"items"`
	Counts map[string]int `json:"counts"` // of items, by state
	Bytes  int64          `json:"bytes"`  // of compressed nars that were written
}

// ImportedItem is what became of an item.
type ImportedItem struct {
	Path  string `json:"path"` // "" if the narinfo says none
	State string `json:"state"`
	Error string `json:"error,omitempty"`
}

func (r *Imported) add(path, state string, err error) {
	item := ImportedItem{Path: path, State: state}
	if err != nil {
		item.Error = err.Error()
	}
	r.Items = append(r.Items, item)
	r.Counts[state]++
}

// importer is an Import that goes on.
type importer struct {
	to     *mirror
	blocks eris.Fetcher
	judge  upstream.Judge
	failed map[storepath.Path]bool // items whose bytes are missing or wrong
	done   Imported
	errs   []error // the first maxReasons
}

// Import puts the items of a bundle into a folder, which it makes if it is
// missing: a substitute server of files, as docs/operations.md has it
// ("Mirrors"). x is the index of the bundle and r its bytes. Narinfos count that
// judge has count. An item appears when all of it is there and right; those that
// are there already are left alone, so that an import that was interrupted can
// be run again.
//
// An item that cannot be imported does not keep others from it. The error then
// joins the reasons, ten at most, and matches eris.ErrCorrupt, eris.ErrNotFound
// or what judge returns. It matches ErrNoManifest if the bundle has other
// contents than ours, and folder.ErrLocked if another import writes there.
func Import(ctx context.Context, dir string, x *eriscbor.Index, r io.ReaderAt, judge upstream.Judge, o ImportOptions) (done Imported, err error) {
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
	caps := x.Caps()
	if len(caps) == 0 {
		return done, fmt.Errorf("%w: it names no content", ErrNoManifest)
	}
	i := &importer{blocks: x.Fetcher(r), judge: judge, failed: map[storepath.Path]bool{}, done: Imported{Items: []ImportedItem{}, Counts: map[string]int{}}}
	content := eris.NewReader(ctx, caps[0], i.blocks, eris.ReaderOptions{MaxLength: maxManifest})
	defer func() { err = errors.Join(err, content.Close()) }()
	manifest, err := readManifest(content)
	if err != nil {
		return done, err
	}
	if i.to, err = openMirror(dir); err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, i.to.close()) }()
	for {
		entry, err := manifest.next()
		if errors.Is(err, io.EOF) {
			return i.done, errors.Join(i.errs...)
		}
		if err == nil {
			err = i.item(ctx, entry)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return i.done, errors.Join(append(i.errs, err)...)
		}
		o.Progress(manifest.count, max(len(caps)-1, manifest.count))
	}
}

// item imports one item. The error is one of the folder, or of ctx.
func (i *importer) item(ctx context.Context, e entry) error {
	n, p, s, err := i.read(e.text)
	name := ""
	if p != (storepath.Path{}) {
		name = p.String()
	}
	if err != nil {
		i.reject(name, StateRefused, err)
		return nil
	}
	state, err := i.to.has(p, s, i.judge)
	if err != nil {
		return err
	}
	if state != "" {
		i.done.add(name, state, nil)
		return nil
	}
	if i.failed[p] {
		// A small bundle could have a large nar unpacked again and again.
		i.reject(name, StateFailed, fmt.Errorf("%w: listed again after it failed", eris.ErrCorrupt))
		return nil
	}
	content := eris.NewReader(ctx, e.content, i.blocks, eris.ReaderOptions{MaxLength: compress.Bound(int64(s.NarSize))})
	size, err := i.to.put(n, p, s, e.method, content)
	err = errors.Join(err, content.Close())
	var folder *folderError
	switch {
	case err == nil:
		i.done.add(name, StateImported, nil)
		i.done.Bytes += size
	case errors.As(err, &folder), ctx.Err() != nil:
		return fmt.Errorf("%s: %w", name, err)
	default:
		i.failed[p] = true
		i.reject(name, StateFailed, err)
	}
	return nil
}

func (i *importer) reject(name, state string, err error) {
	i.done.add(name, state, err)
	if name == "" {
		name = fmt.Sprintf("manifest, entry %d", len(i.done.Items))
	}
	switch {
	case len(i.errs) < maxReasons:
		i.errs = append(i.errs, fmt.Errorf("%s: %w", name, err))
	case len(i.errs) == maxReasons:
		i.errs = append(i.errs, errors.New("…"))
	}
}

// read reads and judges a narinfo. The path is the zero one if it says none that
// can be printed.
func (i *importer) read(text []byte) (n *narinfo.Narinfo, p storepath.Path, s narinfo.Signed, err error) {
	if n, err = narinfo.Parse(text); err != nil {
		return n, p, s, err
	}
	if p, err = storepath.Parse(n.StorePath); err != nil {
		return n, p, s, fmt.Errorf("%w: %w", narinfo.ErrMalformed, err)
	}
	if len(p.Dir) > maxStoreDir || strconv.Quote(p.Dir) != `"`+p.Dir+`"` {
		return n, storepath.Path{}, s, fmt.Errorf("%w: store folder %.80q", narinfo.ErrMalformed, p.Dir)
	}
	if s, err = i.judge(n); err != nil {
		return n, p, s, err
	}
	if !bytes.Equal(n.Portable(), text) {
		return n, p, s, fmt.Errorf("%w: it has lines of one server", narinfo.ErrMalformed)
	}
	return n, p, s, errors.Join(s.Matches(p), checkSigned(s))
}
