package substitute

import (
	"context"
	"io"
	"net/http"
)

// narWay returns the way by a whole nar.
func (in *installation) narWay(o offer) way {
	uri := o.nar.URL
	if u, err := o.server.resolve(uri); err == nil {
		uri = u.String()
	}
	return way{
		uri: uri, compression: o.nar.Compression, server: o.server,
		open: func(ctx context.Context) (io.ReadCloser, int64, error) {
			body, size, resp, err := in.open(ctx, o.server, o.nar.URL)
			if err != nil {
				return nil, 0, err
			}
			return in.narBody(o, body, size, resp)
		},
	}
}

// narBody returns the body of an answer and its size. A stock `guix publish`
// sends a live, uncompressed nar without a length and then leaves the
// connection open: there the signed size says where the nar ends. Where HTTP
// does not say the size, the narinfo may.
func (in *installation) narBody(o offer, body io.ReadCloser, size int64, resp *http.Response) (io.ReadCloser, int64, error) {
	if size >= 0 {
		return body, size, nil
	}
	if o.nar.Compression == "none" && in.signed.HasNarSize {
		size = int64(in.signed.NarSize)
		if resp != nil && len(resp.TransferEncoding) == 0 {
			return readCloser{io.LimitReader(body, size), body}, size, nil
		}
		return body, size, nil
	}
	if o.nar.FileSize > 0 && o.nar.FileSize <= uint64(in.compressedLimit()) {
		size = int64(o.nar.FileSize)
	}
	return body, size, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}
