package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"log/slog"

	"ersatz/internal/metrics"
	"ersatz/internal/node"
)

// firstPiece is how many bytes of a nar have to be there before it is said to
// come.
const firstPiece = 512

// fromKept is what people are told of an item that is kept.
const fromKept = "kept"

// reader is the nar of an item for one who asks. When a way fails it goes on
// with the next, behind what it has given; the last bytes come only if NarHash
// is right.
type reader struct {
	t    *Transfers
	ctx  context.Context // of who asks: io.Reader has no place for it
	want node.Want
	size int64

	item *item    // nil if a file is read that is kept
	try  *try     // that is read, or was last
	s    *stretch // nil between ways
	on   bool     // counted as a reader of try
	from string   // for people

	sum   hash.Hash // of what was given
	given int64     // bytes, those of tail not among them
	first []byte    // read already
	tail  *bytes.Reader
	err   error // that Read ended with

	broken bool // a file was read that was kept and is broken
	own    bool // a file is read that is kept as the item's own
}

// errGiven means that what a reader was given is not of the nar that was signed.
var errGiven = errors.New("the first bytes that were given are not those of the signed nar")

// begin waits for the first bytes.
func (r *reader) begin() error {
	first := make([]byte, min(r.size, firstPiece))
	n, err := r.Read(first)
	r.first = first[:n]
	return err
}

// Source implements node.Nar.
func (r *reader) Source() string { return r.from }

// Close implements node.Nar.
func (r *reader) Close() error {
	var err error
	if r.s != nil {
		err = r.s.Close()
		r.s = nil
	}
	r.alight(nil)
	if r.item != nil {
		r.item.leave()
		r.item = nil
	}
	return err
}

// alight ends the reading of a way; why is nil if it did not fail.
func (r *reader) alight(why error) {
	if r.on {
		r.on = false
		r.item.done(r.try, isWrong(why))
	}
}

// Read implements node.Nar.
func (r *reader) Read(p []byte) (n int, err error) {
	if r.err == nil {
		n, r.err = r.next(p)
	}
	return n, r.err
}

// next gives some bytes, or says why no more come.
func (r *reader) next(p []byte) (int, error) {
	for {
		switch {
		case len(p) == 0:
			return 0, nil
		case len(r.first) > 0:
			n := copy(p, r.first)
			r.first = r.first[n:]
			return n, nil
		case r.tail != nil:
			return r.tail.Read(p)
		case r.s == nil:
			if err := r.open(); err != nil {
				return 0, err
			}
		}
		n, err := r.read(p)
		if n > 0 {
			return n, nil
		}
		if err == nil {
			continue // the end has come
		}
		if r.ctx.Err() != nil {
			return 0, r.ctx.Err()
		}
		if err := r.giveUp(err); err != nil {
			return 0, err
		}
	}
}

// read gives what is to be given at once, and reads the rest when that is all
// that is left.
func (r *reader) read(p []byte) (int, error) {
	if left := r.size - heldBack - r.given; left > 0 {
		n, err := r.s.Read(p[:min(int64(len(p)), left)])
		r.sum.Write(p[:n])
		r.given += int64(n)
		if n == 0 && err != nil {
			return 0, r.s.fault(err)
		}
		return n, nil
	}
	tail := make([]byte, r.size-r.given)
	if _, err := io.ReadFull(r.s, tail); err != nil {
		return 0, r.s.fault(err)
	}
	whole, err := r.sum.(hash.Cloner).Clone()
	if err != nil {
		return 0, err
	}
	whole.Write(tail)
	if err := r.s.end(whole, r.want.Choice.Builds[0].Signed.NarHash); err != nil {
		return 0, err
	}
	if r.on {
		r.item.found(r.try, r.size)
	}
	if !r.own {
		r.t.keepTwin(r.want)
	}
	r.tail = bytes.NewReader(tail)
	return 0, nil
}

// open opens the file that is kept, or the way that is being gone, and reads
// again what was given already.
func (r *reader) open() error {
	for {
		if err := r.openFile(); err != nil {
			return err
		}
		err := r.skip()
		if err == nil || r.ctx.Err() != nil || errors.Is(err, errGiven) {
			return err
		}
		if err := r.giveUp(err); err != nil {
			return err
		}
	}
}

// openFile sets s. A way whose content cannot be read from its beginning on is
// passed over.
func (r *reader) openFile() error {
	for {
		if r.item == nil {
			f, i, err := r.t.open(r.want, false)
			if err != nil {
				return err
			}
			if f != nil {
				r.from, r.own = fromKept, f.Item.Path == r.want.Path
				r.t.o.Count.Got(metrics.Kept, f.Item.Size)
				if r.s, err = unpack(f, f.Item.Method, func() {}); err == nil {
					return nil
				}
				if err := r.giveUp(err); err != nil {
					return err
				}
				continue
			}
			r.item, r.own = i, false
		}
		ctx, cancel := context.WithCancel(r.ctx)
		try, file, err := r.item.next(ctx, r.try)
		if errors.Is(err, errOver) || errors.Is(err, errIdle) {
			cancel()
			r.item.leave()
			r.item, r.try = nil, nil
			continue
		}
		if err != nil {
			cancel()
			return err
		}
		r.try, r.from, r.on = try, try.source, true
		if r.s, err = unpack(file, try.method, cancel); err == nil {
			return nil
		}
		r.alight(err)
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
	}
}

// skip reads what was given already. If that is not the same, one of the two is
// wrong: NarHash says whether it is what was given.
func (r *reader) skip() error {
	if r.given == 0 {
		return nil
	}
	again := sha256.New()
	if err := r.s.sum(again, r.given); err != nil {
		return err
	}
	if bytes.Equal(again.Sum(nil), r.sum.Sum(nil)) {
		return nil
	}
	if err := r.s.sum(again, r.size-r.given); err != nil {
		return err
	}
	if err := r.s.end(again, r.want.Choice.Builds[0].Signed.NarHash); err != nil {
		return err
	}
	return errGiven
}

// giveUp ends reading from where it fails. An item that was kept and is broken
// is removed: then it is fetched. The error says that there is no going on.
func (r *reader) giveUp(why error) error {
	var err error
	if r.s != nil {
		err = r.s.Close()
		r.s = nil
	}
	r.alight(why)
	if r.item != nil {
		return nil // the next way may do
	}
	path := r.want.Path
	r.t.log.WarnContext(r.ctx, "kept item is broken, and is fetched again", slog.String("store_path", path.String()), slog.Any("error", why))
	if r.broken {
		return errors.Join(why, err) // what this machine keeps does not last
	}
	r.broken = true
	if rerr := r.t.forget(r.ctx, r.want); rerr != nil {
		return errors.Join(why, err, rerr)
	}
	return nil
}
