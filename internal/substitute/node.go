package substitute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ersatz/internal/nodeapi"
	"ersatz/internal/upstream"
	"ersatz/nar"
)

const (
	// nodeIdle is how many stalls of its sources a node is waited for.
	nodeIdle = 3

	// nodePause is how long a node that was lost is left alone before each of
	// its chances, of which it has nodeTries for one item.
	nodePause = 200 * time.Millisecond
	nodeTries = 100
)

// errNoNode means that the node has nothing to do with an item.
var errNoNode = errors.New("no node")

// openNode returns a client of the node, nil if its socket is not there.
func openNode(o Options) *nodeapi.Client {
	if o.Node == "" {
		return nil
	}
	fi, err := os.Stat(o.Node)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil && fi.Mode().Type() != fs.ModeSocket:
		err = errors.New("no socket")
	}
	if err != nil {
		o.Log.Warn("node is not asked", slog.String("socket", o.Node), slog.Any("error", err))
		return nil
	}
	return nodeapi.New(o.Node, nodeIdle*o.Stall)
}

// tryNode has the node give the item, and asks it again if it is lost in the
// middle: it may be being started again, and has what arrived. The error
// matches errNoNode if it was not asked.
func (in *installation) tryNode(ctx context.Context) (nar.Info, error) {
	given := narinfosOf(in.Build)
	if in.node == nil || in.liars[in.node.String()] || len(given) == 0 || !in.Signed.HasNarSize {
		return nar.Info{}, errNoNode
	}
	w := in.nodeWay(given)
	var most int64     // bytes of the nar that have arrived at once
	var lost time.Time // when the node was lost after it had given more than before
	for try := 1; ; try++ {
		info, err := in.try(ctx, w)
		if err == nil || fatal(ctx, err) {
			return info, err
		}
		var mismatch *hashError
		if errors.As(err, &mismatch) || upstream.Waited(err) {
			in.liars[in.node.String()] = true // it is not asked again by this process
		}
		away := errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
		cut := upstream.BrokeOff(err) || errors.Is(err, unix.EPIPE)
		if cut && (lost.IsZero() || in.trace.done > most) {
			lost, most = in.o.Now(), in.trace.done
		}
		if lost.IsZero() || !cut && !away || try == nodeTries || in.o.Now().Sub(lost) >= in.o.NodeWait {
			return nar.Info{}, fmt.Errorf("%s: %w", w.uri, err)
		}
		in.log.Info("node was lost and is asked again", slog.String("store_path", in.path.String()), slog.Any("error", err))
		pause := time.NewTimer(nodePause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nar.Info{}, ctx.Err()
		case <-pause.C:
		}
	}
}

// nodeWay returns the way by the node, which gives the nar as it is.
func (in *installation) nodeWay(given []nodeapi.Narinfo) way {
	return way{
		uri: in.node.String(), compression: "none",
		open: func(ctx context.Context) (io.ReadCloser, int64, error) {
			n, err := in.node.Nar(ctx, nodeapi.NarRequest{Path: in.path.String(), Narinfos: given})
			if err != nil {
				return nil, 0, err
			}
			if n.Size != int64(in.Signed.NarSize) {
				return nil, 0, errors.Join(fmt.Errorf("nar of %d bytes, not of the signed %d", n.Size, in.Signed.NarSize), n.Close())
			}
			return sourced{n, sourceURI(n.Source, in.node.String())}, n.Size, nil
		},
	}
}

// sourced is a nar that says where it comes from.
type sourced struct {
	io.ReadCloser
	uri string
}

// sourceURI makes one word of what a node or a server says of where a nar comes
// from, as the trace needs, which a terminal can show.
func sourceURI(source, otherwise string) string {
	words := strings.FieldsFunc(source, func(r rune) bool { return r <= ' ' || r > '~' })
	if len(words) == 0 || len(source) > 1000 {
		return otherwise
	}
	return strings.Join(words, "_")
}

// narinfosOf returns the narinfos of a build that a node can use: those of
// servers, which are asked on behalf of this machine, and none if none of these
// counts. The first is what a node keeps and gives to others: one that is not
// signed by whom they trust would stand in the way of the right one.
func narinfosOf(b *upstream.Build) []nodeapi.Narinfo {
	var given []nodeapi.Narinfo
	for i, a := range b.Narinfos {
		if i >= b.Counting && len(given) == 0 {
			return nil
		}
		if !a.Server.IsFolder() && len(given) < nodeapi.MaxNarinfos {
			given = append(given, nodeapi.Narinfo{Server: a.Server.URL(), Text: string(a.Text)})
		}
	}
	return given
}
