package substitute

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"ersatz/eris"
	"ersatz/internal/fetch"
)

// blockWay returns the way by blocks, if there is a signed URN and a source.
func (in *installation) blockWay() (way, bool) {
	if in.Content.URN == "" {
		return way{}, false
	}
	sources := in.blockSources()
	if len(sources) == 0 {
		return way{}, false
	}
	return way{
		uri: in.Content.URN, compression: in.Content.Method, verified: true,
		open: func(ctx context.Context) (io.ReadCloser, int64, error) {
			mix := fetch.New(sources, fetch.Options{Stall: in.o.Stall, Log: in.log})
			// Nothing is asked for that lies beyond what a nar of the signed
			// size can have as compressed.
			r := eris.NewReader(ctx, in.Content.ReadCap, mix, eris.ReaderOptions{MaxLength: in.CompressedLimit()})
			return &blockReader{r, mix, in}, in.Content.Size, nil
		},
	}, true
}

// blockSources returns the servers that name the URN and the local IPFS daemon.
// A server that lied is not asked for blocks again.
func (in *installation) blockSources() []fetch.Source {
	var sources []fetch.Source
	for _, sv := range in.Content.Servers {
		if source, ok := in.upstream.Blocks(sv); ok && !in.liars[source.Name] {
			source.Prior = in.learnt[source.Name]
			sources = append(sources, source)
		}
	}
	if in.ipfs != nil {
		if s := in.ipfsSource(); !in.liars[s.Name] {
			sources = append(sources, s)
		}
	}
	return sources
}

func (in *installation) ipfsSource() fetch.Source {
	name := in.ipfs.String()
	return fetch.Source{Name: name, Fetcher: in.ipfs, Prior: in.learnt[name]}
}

// blockReader is the compressed nar as blocks. Closing it says what came from
// where.
type blockReader struct {
	*eris.Reader
	mix *fetch.Mix
	in  *installation
}

func (r *blockReader) Close() error {
	err := r.Reader.Close()
	for _, s := range r.mix.Stats() {
		if s.Err == nil {
			r.in.learnt[s.Name] = s.Learnt
		}
		r.in.log.Info("source of blocks", slog.String("store_path", r.in.path.String()), slog.String("source", s.Name),
			slog.Int64("blocks", s.Blocks), slog.Int64("bytes", s.Bytes), slog.Any("error", s.Err))
		if errors.Is(s.Err, eris.ErrCorrupt) {
			r.in.liars[s.Name] = true
		}
	}
	return err
}
