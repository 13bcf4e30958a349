package substitute

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"ersatz/internal/compress"
	"ersatz/internal/stream"
	"ersatz/internal/upstream"
	"ersatz/nar"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

// tempSuffix makes the name under which an item is restored of its own. The
// daemon's garbage collector leaves HASH-NAME.chroot alone while HASH-NAME is a
// temporary root, as it is during its substitution (Guix 1.5.0,
// nix/libstore/gc.cc, isActiveTempFile).
const tempSuffix = ".chroot"

// hashError says that a nar came whole and is not the one that was signed.
type hashError struct{ want, got [32]byte }

func (e *hashError) Error() string {
	return fmt.Sprintf("hash is %s, not the signed %s", nixbase32.Encode(e.got[:]), nixbase32.Encode(e.want[:]))
}

// localError says that this machine is at fault, and no other source helps.
type localError struct{ error }

func (e *localError) Unwrap() error { return e.error }

// way is one way to an item's nar.
type way struct {
	uri         string // for people
	compression string
	server      *upstream.Server // nil for blocks
	verified    bool             // the compressed nar is what an accepted key has signed
	// open begins to read the compressed nar and returns its size, -1 if
	// unknown.
	open func(ctx context.Context) (io.ReadCloser, int64, error)
}

// installation is one item being installed.
type installation struct {
	*Substituter
	*upstream.Build
	path  storepath.Path
	root  *os.Root // where it goes
	name  string   // its name there
	temp  string   // its name there until it is whole
	trace trace
}

// install makes dest of the item p. The error tells people what was tried; it
// matches *hashError if a nar came whole and was another one.
func (s *Substituter) install(ctx context.Context, p storepath.Path, dest string) (nar.Info, error) {
	dir, name := filepath.Split(dest)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nar.Info{}, err
	}
	defer root.Close()
	// The daemon removes what is left of an earlier attempt before it asks
	// (SubstitutionGoal::tryToRun). What is there now is somebody else's.
	if _, err := root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return nar.Info{}, fmt.Errorf("%s: %w", dest, cmp.Or(err, fs.ErrExist))
	}
	c := s.find(ctx, []storepath.Path{p})[0]
	errs := c.Refused
	if len(c.Builds) == 0 {
		errs = append(errs, errors.New("no server has a narinfo that counts"))
	}
	in := &installation{
		Substituter: s, path: p, root: root, name: name, temp: p.Base() + tempSuffix,
		trace: trace{w: s.messages, on: s.daemon.Trace, dest: dest},
	}
	if err := nar.RemoveAll(root, in.temp); err != nil {
		return nar.Info{}, fmt.Errorf("what an earlier run left: %w", err)
	}
	for _, in.Build = range c.Builds {
		info, err := in.tryAll(ctx)
		if err == nil {
			return info, nil
		}
		errs = append(errs, err)
		if fatal(ctx, err) {
			break
		}
	}
	return nar.Info{}, errors.Join(errs...)
}

// fatal reports whether no other source can help.
func fatal(ctx context.Context, err error) bool {
	var local *localError
	return errors.As(err, &local) || ctx.Err() != nil
}

// tryAll tries the node, then one way to a build after the other, and once more
// those in which the transfer broke off: what a source has, it has.
func (in *installation) tryAll(ctx context.Context) (nar.Info, error) {
	var errs []error
	info, err := in.tryNode(ctx)
	if err == nil || fatal(ctx, err) {
		return info, err
	}
	if !errors.Is(err, errNoNode) {
		errs = append(errs, err)
		in.log.Warn("node does not give a substitute", slog.String("store_path", in.path.String()), slog.Any("error", err))
	}
	ways := in.ways()
	for round := 1; len(ways) > 0 && round <= 2; round++ {
		var again []way
		for len(ways) > 0 {
			w := ways[0]
			ways = ways[1:]
			info, err := in.try(ctx, w)
			if err == nil {
				delete(in.slow, w.server)
				return info, nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", w.uri, err))
			if fatal(ctx, err) {
				return nar.Info{}, errors.Join(errs...)
			}
			if upstream.BrokeOff(err) {
				again = append(again, w)
			}
			if upstream.Waited(err) && w.server != nil {
				in.slow[w.server] = true
				in.slowLast(ways)
			}
			in.log.Warn("source of a substitute is given up", slog.String("store_path", in.path.String()),
				slog.String("source", w.uri), slog.Any("error", err))
		}
		ways = again
	}
	if len(errs) == 0 {
		errs = append(errs, errors.New("no server offers its nar"))
	}
	return nar.Info{}, errors.Join(errs...)
}

// slowLast puts the ways to servers that were waited for in vain behind all
// others: one may offer a nar in many forms, and many nars.
func (s *Substituter) slowLast(ways []way) {
	slices.SortStableFunc(ways, func(a, b way) int {
		switch {
		case s.slow[a.server] == s.slow[b.server]:
			return 0
		case s.slow[a.server]:
			return 1
		}
		return -1
	})
}

// ways returns the ways in the order in which they are tried.
func (in *installation) ways() []way {
	var ways []way
	for _, o := range in.Nars {
		ways = append(ways, in.narWay(o))
	}
	in.slowLast(ways)
	if b, ok := in.blockWay(); ok && in.BlocksFirst() {
		ways = append([]way{b}, ways...)
	} else if ok {
		ways = append(ways, b)
	}
	return ways
}

// try restores the item in one way, and gives it its name if it is right.
func (in *installation) try(ctx context.Context, w way) (nar.Info, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, size, err := w.open(ctx)
	if err != nil {
		return nar.Info{}, err
	}
	defer body.Close()
	if limit := in.CompressedLimit(); size > limit {
		return nar.Info{}, fmt.Errorf("%d bytes are too many for a nar of %d", size, in.Signed.NarSize)
	}
	uri := w.uri
	if n, ok := body.(sourced); ok {
		uri = n.uri
	}
	in.trace.start(uri, size)
	info, err := in.restore(cancel, body, w)
	if err != nil {
		return nar.Info{}, err
	}
	if err := in.check(info); err != nil {
		return nar.Info{}, errors.Join(err, nar.RemoveAll(in.root, in.temp))
	}
	in.trace.succeed()
	if err := in.rename(); err != nil {
		return nar.Info{}, &localError{errors.Join(err, nar.RemoveAll(in.root, in.temp))}
	}
	return info, nil
}

// restore reads a compressed nar and makes the temporary tree. When it returns,
// the body is not being read any more, for which it may have to cancel. An error
// that is not the stream's is a *localError.
func (in *installation) restore(cancel func(), body io.Reader, w way) (nar.Info, error) {
	src := &stream.Faults{R: &stream.Limited{R: body, Left: in.CompressedLimit(), Add: in.trace.add}}
	open := compress.NewReader
	if w.verified {
		open = compress.NewVerifiedReader
	}
	d, err := open(src, w.compression)
	if err != nil {
		return nar.Info{}, cmp.Or(src.Err(), err)
	}
	defer d.Close()
	o := nar.RestoreOptions{Dedup: in.dedupFor()}
	unread := io.Reader(d)
	if in.Signed.HasNarSize {
		o.MaxSize = int64(in.Signed.NarSize) // plausible
		// One byte more is what Restore looks for at the end.
		unread = io.LimitReader(d, o.MaxSize+1)
	}
	plain := &stream.Faults{R: stream.Safe{R: unread}}
	// Verified zstd is decoded ahead by goroutines of its own, and without
	// compression the reader of blocks is ahead.
	if !w.verified || w.compression != "zstd" && w.compression != "none" {
		decoded := stream.ReadAhead(unread)
		defer decoded.Close()
		plain.R = decoded
	}
	defer cancel()
	info, err := nar.Restore(plain, in.root, in.temp, o)
	var syntax *nar.SyntaxError
	switch {
	case err == nil:
		return info, nil
	case plain.Err() != nil && src.Err() != nil && !errors.Is(err, src.Err()):
		return nar.Info{}, src.Err() // decoders name the symptom only
	case plain.Err() != nil || errors.As(err, &syntax):
		return nar.Info{}, err
	}
	return nar.Info{}, &localError{err}
}

// check compares what was restored with what was signed.
func (in *installation) check(info nar.Info) error {
	if info.Hash != in.Signed.NarHash {
		return &hashError{in.Signed.NarHash, info.Hash}
	}
	if in.Signed.HasNarSize && uint64(info.Size) != in.Signed.NarSize {
		return fmt.Errorf("nar has %d bytes, not the signed %d", info.Size, in.Signed.NarSize)
	}
	return nil
}

// rename gives the tree its name, over nothing.
func (in *installation) rename() error {
	dir, err := in.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	fd := int(dir.Fd())
	err = unix.Renameat2(fd, in.temp, fd, in.name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // not every file system can
		if _, err = in.root.Lstat(in.name); errors.Is(err, fs.ErrNotExist) {
			err = in.root.Rename(in.temp, in.name)
		} else {
			err = cmp.Or(err, fs.ErrExist)
		}
	}
	if err != nil {
		return fmt.Errorf("rename to %s: %w", in.name, err)
	}
	return nil
}

// dedupFor returns where files of the item are shared, nil if they are not:
// the daemon did not ask for it, or the item does not go to its store.
func (in *installation) dedupFor() *nar.Dedup {
	dir := in.path.Dir
	if !in.daemon.Deduplicate || filepath.Clean(in.root.Name()) != dir {
		return nil
	}
	if d, ok := in.dedup[dir]; ok {
		return d
	}
	d, err := nar.OpenDedup(dir)
	if err != nil {
		in.log.Warn("files are not shared", slog.String("store", dir), slog.Any("error", err))
		return nil
	}
	in.dedup[dir] = d
	return d
}
