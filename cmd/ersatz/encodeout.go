package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"path/filepath"
	"strings"

	"ersatz/eris"
	"ersatz/eriscbor"
	"ersatz/internal/block/dirstore"
	"ersatz/internal/durable"
)

// encodeOutputs say where encode writes besides the URN; "" is nowhere.
type encodeOutputs struct {
	dir, bundle, link, mediaType string
	encodeStores
}

// encodeWriter writes blocks to where they are wanted.
type encodeWriter struct {
	encodeOutputs
	ctx   context.Context // of the one command that encodes
	store *dirstore.Store // nil if there is none; so with the others
	file  *durable.File
	into  *eriscbor.Writer
	to    *openStores
}

// errStores means that no store is left that takes blocks: its own errors say
// more.
var errStores = errors.New("no store takes blocks")

// check refuses what cannot be written, before the work is done.
func (o encodeOutputs) check() error {
	if o.link != "" && !strings.HasSuffix(o.link, eriscbor.LinkSuffix) {
		return usageError(fmt.Errorf("--link: the name of a link file ends in %s, unlike %s", eriscbor.LinkSuffix, o.link))
	}
	if o.mediaType != "" && o.link == "" {
		return usageError(errors.New("--type is for --link"))
	}
	for _, name := range []string{o.bundle, o.link} {
		if err := checkOutput(name); err != nil {
			return err
		}
	}
	if o.duration < 0 {
		return usageError(fmt.Errorf("--for: %v is below 0", o.duration))
	}
	return nil
}

// open opens what goes to files, besides what goes to stores.
func (o encodeOutputs) open(ctx context.Context, to *openStores) (w *encodeWriter, err error) {
	w = &encodeWriter{encodeOutputs: o, ctx: ctx, to: to}
	if o.dir != "" {
		if w.store, err = dirstore.Create(o.dir); err != nil {
			return nil, errors.Join(err, w.close())
		}
	}
	if o.bundle != "" {
		if w.file, err = durable.Create(o.bundle, 0o644); err != nil {
			return nil, errors.Join(err, w.close())
		}
		w.into = eriscbor.NewWriter(w.file)
	}
	return w, nil
}

func (w *encodeWriter) emit(b eris.Block) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.store != nil {
		if err := w.store.Put(w.ctx, b.Ref, b.Data); err != nil {
			return fmt.Errorf("%s: %w", w.dir, err)
		}
	}
	if w.into != nil {
		if err := w.into.Emit(b); err != nil {
			return err
		}
	}
	alive, err := w.to.emit(b)
	if err == nil && !alive && w.store == nil && w.into == nil {
		err = errStores
	}
	return err
}

// finish ends the bundle, writes the link to the content, which came from a file
// of that name, and returns when all stores have it. encoded is how encoding
// ended.
func (w *encodeWriter) finish(c eris.ReadCap, size int64, name string, encoded error) error {
	if encoded == nil {
		encoded = w.ctx.Err() // what has cut the content short may have been the same keystroke
	}
	if encoded != nil {
		put := w.to.puts.wait()
		if put != nil && errors.Is(encoded, errStores) {
			encoded = nil
		}
		return errors.Join(encoded, put)
	}
	if w.into != nil {
		if err := errors.Join(w.into.Finish(c), w.file.Commit()); err != nil {
			return err
		}
	}
	if err := w.writeLink(c, size, name); err != nil {
		return err
	}
	return w.to.finish(w.ctx, c, size)
}

func (w *encodeWriter) writeLink(c eris.ReadCap, size int64, name string) error {
	if w.link == "" {
		return nil
	}
	mediaType := cmp.Or(w.mediaType, mime.TypeByExtension(filepath.Ext(name)), "application/octet-stream")
	link, err := eriscbor.Link{Cap: c, Size: uint64(size), Type: mediaType}.Bytes()
	if err != nil {
		return usageError(fmt.Errorf("--type: %w", err))
	}
	return durable.WriteFile(w.link, 0o644, func(w io.Writer) error {
		_, err := w.Write(link)
		return err
	})
}

func (w *encodeWriter) close() error {
	var errs []error
	if w.store != nil {
		errs = append(errs, w.store.Close())
	}
	if w.file != nil {
		errs = append(errs, w.file.Abort())
	}
	return errors.Join(errs...)
}
