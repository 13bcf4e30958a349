package substitute

import (
	"context"
	"io"

	"ersatz/internal/upstream"
)

// narWay returns the way by a whole nar.
func (in *installation) narWay(o upstream.Offer) way {
	return way{
		uri: sourceURI(o.URL(), o.Server.String()), compression: o.Nar.Compression, server: o.Server,
		open: func(ctx context.Context) (io.ReadCloser, int64, error) {
			body, err := in.upstream.OpenNar(ctx, o, in.Build)
			if err != nil {
				return nil, 0, err
			}
			return body, body.Size, nil
		},
	}
}
