package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"ersatz/eriscbor"
	"ersatz/internal/bundle"
	"ersatz/internal/config"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/storepath"
)

// importFlags are the settings of import as they are written.
type importFlags struct {
	trust      trustFlags
	to         string
	list, json bool
}

func (a *app) importCommand() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import --to DIR [BUNDLE|-]",
		Short: "Put the store items of a bundle into a folder that clients install from",
		Long: `Read a bundle that "ersatz export" has written, from a file or standard input, and
put its store items into DIR, which is made if it is missing: narinfos and nars, as
a substitute server has them. Clients install from file:///DIR, or over any web
server. docs/bundles.md has more.

Each block is verified, each narinfo must be signed by an authorized key, as for
ersatz-substitute, and each nar must be the one that was signed. An item that fails
is named and left out; the others are imported. What is there already stays, so an
import that was interrupted can be run again. Nothing is installed.

With --list, print the store paths that DIR has, one a line, for the --have of
"ersatz export".`,
		Example: `  ersatz import --to /srv/mirror /media/stick/system.cbor
  guix build hello --substitute-urls=file:///srv/mirror
  ersatz import --to /srv/mirror --list > have`,
		Args: cobra.MaximumNArgs(1),
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			if f.list {
				return a.importList(f, args)
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			return a.importBundle(ctx, f, append(args, "-")[0])
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "`DIR` that gets the items")
	flags.BoolVar(&f.list, "list", false, "print what DIR has, and import nothing")
	flags.BoolVar(&f.json, "json", false, "print what became of each item as JSON")
	f.trust.register(cmd)
	markDirname(cmd, "to")
	markRequired(cmd, "to")
	return cmd
}

func (a *app) importList(f importFlags, args []string) error {
	if len(args) > 0 || f.json {
		return usageError(errors.New("--list reads no bundle and prints no JSON"))
	}
	return bundle.List(f.to, func(p storepath.Path) error {
		_, err := fmt.Fprintln(a.stdout, p)
		return err
	})
}

func (a *app) importBundle(ctx context.Context, f importFlags, name string) (err error) {
	c, err := config.Load(a.getenv)
	if err != nil {
		return usageError(err)
	}
	judge, err := f.trust.judge(c)
	if err != nil {
		return usageError(err)
	}
	if err := notState(f.to); err != nil {
		return usageError(fmt.Errorf("--to: %w", err))
	}
	in, size, err := a.open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	src := io.Reader(in)
	if name == "-" {
		src = a.stdin // which may be a file
	}
	wrong := 0
	read := a.progress("reading", size)
	b, err := readBundle(ctx, src, f.to, read, tellWrong(&wrong, func(err error) { fmt.Fprintln(a.stderr, "ersatz:", err) }))
	read.Close()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer b.Close()
	bar := a.countBar("importing")
	done, err := bundle.Import(ctx, f.to, b.index, b.at, judge, bundle.ImportOptions{Progress: bar.set})
	bar.clear()
	if errors.Is(err, bundle.ErrNoManifest) {
		return usageError(fmt.Errorf("%s: %w (\"ersatz decode --bundle\" reads other ones)", name, err))
	}
	if done.Counts == nil { // it has not begun
		return err
	}
	if wrong > 0 {
		err = errors.Join(err, &markedError{errDamage, fmt.Errorf("%s: wrong blocks: %d", name, wrong)})
	}
	return errors.Join(err, a.printImported(done, f.json))
}

// maxWrong bounds the blocks that are told of.
const maxWrong = 10

// tellWrong counts wrong blocks, and tells of the first ones.
func tellWrong(count *int, tell func(error)) func(error) {
	return func(err error) {
		if *count++; *count <= maxWrong {
			tell(err)
		}
	}
}

func (a *app) printImported(done bundle.Imported, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(a.stdout).Encode(done)
	}
	n := done.Counts
	_, err := fmt.Fprintf(a.stdout, "%s imported, %s\n", storeItems(n[bundle.StateImported]), humanize.IBytes(uint64(done.Bytes)))
	for _, s := range []struct{ state, text string }{
		{bundle.StatePresent, "%d there already\n"}, {bundle.StateDiffers, "%d of which another build is there\n"},
		{bundle.StateRefused, "%d refused\n"}, {bundle.StateFailed, "%d missing or wrong\n"},
	} {
		if n[s.state] > 0 && err == nil {
			_, err = fmt.Fprintf(a.stdout, s.text, n[s.state])
		}
	}
	return err
}

// openedBundle is a bundle whose blocks can be had.
type openedBundle struct {
	index *eriscbor.Index
	at    io.ReaderAt
	io.Closer
}

// readBundle reads a bundle. Unless in is a file, from which blocks can be read
// later, its bytes are kept in dir until the bundle is closed, in a file without a
// name.
func readBundle(ctx context.Context, in io.Reader, dir string, bar io.Writer, wrong func(error)) (*openedBundle, error) {
	r := io.TeeReader(folder.WithContext(ctx, in), bar)
	if f, ok := regular(in); ok {
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		x, err := eriscbor.ReadIndex(r, wrong)
		if err != nil {
			return nil, err
		}
		return &openedBundle{x, io.NewSectionReader(f, at, x.Size()), closerFunc(func() {})}, nil
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, durable.TempPrefix+"bundle-*")
	if err != nil {
		return nil, err
	}
	var x *eriscbor.Index
	if err = os.Remove(f.Name()); err == nil {
		x, err = eriscbor.ReadIndex(io.TeeReader(r, f), wrong)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &openedBundle{x, f, f}, nil
}

// regular reports whether in is a file that can be read at any place, and
// returns it.
func regular(in io.Reader) (*os.File, bool) {
	f, ok := in.(*os.File)
	if !ok {
		return nil, false
	}
	fi, err := f.Stat()
	return f, err == nil && fi.Mode().IsRegular()
}
