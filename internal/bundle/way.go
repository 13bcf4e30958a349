package bundle

import (
	"context"
	"io"
	"slices"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/internal/fetch"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
)

// way is one place to get a nar from.
type way struct {
	name   string
	method compress.Method // without a level, which nobody needs
	size   eris.BlockSize  // of the blocks; 0: by length
	open   func(ctx context.Context) (io.ReadCloser, error)
}

// ways returns where a nar can be had: as blocks under a signed URN, as blocks
// under one that a node gives for what it has fetched, then as whole nars, the
// cheapest first.
func (e *exporter) ways(b *upstream.Build) []way {
	var ways []way
	add := func(c upstream.Content) {
		if w, ok := e.blockWay(b, c); ok {
			ways = append(ways, w)
		}
	}
	if b.Content.URN != "" {
		add(b.Content)
	}
	for _, c := range hints(b) {
		add(c)
	}
	for _, offer := range b.Nars {
		ways = append(ways, way{
			name: offer.URL(), method: compress.Method{Name: offer.Nar.Compression},
			open: func(ctx context.Context) (io.ReadCloser, error) {
				body, err := e.client.OpenNar(ctx, offer, b)
				if err != nil {
					return nil, err
				}
				return body.ReadCloser, nil
			},
		})
	}
	return ways
}

// blockWay returns the way by the blocks of a content, if a server can have them.
func (e *exporter) blockWay(b *upstream.Build, c upstream.Content) (way, bool) {
	var sources []fetch.Source
	for _, sv := range c.Servers {
		if source, ok := e.client.Blocks(sv); ok {
			sources = append(sources, source)
		}
	}
	if len(sources) == 0 {
		return way{}, false
	}
	return way{
		name: c.URN, method: compress.Method{Name: c.Method}, size: c.ReadCap.Size,
		open: func(ctx context.Context) (io.ReadCloser, error) {
			mix := fetch.New(sources, fetch.Options{Log: e.o.Log})
			return eris.NewReader(ctx, c.ReadCap, mix, eris.ReaderOptions{MaxLength: b.CompressedLimit()}), nil
		},
	}, true
}

// hints returns the contents that nodes name in lines which no signature covers
// (docs/node.md, "Mirror"): NarHash judges what they give.
func hints(b *upstream.Build) (contents []upstream.Content) {
	for _, answer := range b.Narinfos {
		n, err := narinfo.Parse(answer.Text)
		if err != nil {
			continue
		}
		urn, format := field(n, "ERISHint"), field(n, "ERISHintFormat")
		rc, err := eris.ParseURN(urn)
		if err != nil || urn == b.Content.URN {
			continue
		}
		method, err := compress.ParseFormat(format)
		if err != nil {
			continue
		}
		i := slices.IndexFunc(contents, func(c upstream.Content) bool { return c.URN == urn && c.Method == method.Name })
		if i < 0 {
			i = len(contents)
			contents = append(contents, upstream.Content{URN: urn, ReadCap: rc, Method: method.Name})
		}
		contents[i].Servers = append(contents[i].Servers, answer.Server)
	}
	return contents
}

// field returns the value of a field that package narinfo gives no meaning, ""
// if there is none.
func field(n *narinfo.Narinfo, name string) string {
	i := slices.IndexFunc(n.Unknown, func(f narinfo.Field) bool { return f.Name == name })
	if i < 0 {
		return ""
	}
	return n.Unknown[i].Value
}
