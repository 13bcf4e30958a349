package node

import (
	"context"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"ersatz/internal/web"
)

// piece is how much is sent under one deadline, in bytes: whoever reads more
// slowly than 4 kbit/s is cut off.
const piece = 64 << 10

// burst is how much may go out at once under a limit, in bytes: as much as any
// transport sends in one go.
const burst = 256 << 10

// NewLimiter returns a limit of bytes per second; 0 means none, which is nil.
func NewLimiter(bytes int64) *rate.Limiter {
	if bytes <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bytes), burst)
}

// outlet is a ResponseWriter that moves the connection's write deadline on as
// the client reads, and waits for its share of what all clients under one limit
// get.
type outlet struct {
	http.ResponseWriter
	ctx     context.Context // of the request
	control *http.ResponseController
	limit   *rate.Limiter // nil: none
}

func newOutlet(w http.ResponseWriter, r *http.Request, limit *rate.Limiter) *outlet {
	return &outlet{w, r.Context(), http.NewResponseController(w), limit}
}

// Unwrap is for http.ResponseController.
func (o *outlet) Unwrap() http.ResponseWriter { return o.ResponseWriter }

func (o *outlet) Write(b []byte) (n int, err error) {
	for {
		part := b[:min(len(b), piece)]
		if o.limit != nil {
			if err := o.limit.WaitN(o.ctx, len(part)); err != nil {
				return n, err
			}
		}
		// A connection that knows no deadlines is one of a test.
		o.control.SetWriteDeadline(time.Now().Add(web.Stall))
		m, err := o.ResponseWriter.Write(part)
		n += m
		b = b[m:]
		if err != nil || len(b) == 0 {
			return n, err
		}
	}
}
