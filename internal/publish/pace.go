package publish

import (
	"io"
	"net/http"
	"time"

	"ersatz/internal/web"
)

// paced is a ResponseWriter that moves the connection's write deadline on as
// the client reads.
type paced struct {
	http.ResponseWriter
	control *http.ResponseController
}

func newPaced(w http.ResponseWriter) *paced {
	return &paced{w, http.NewResponseController(w)}
}

// Unwrap is for http.ResponseController.
func (p *paced) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p *paced) extend() {
	// A connection that knows no deadlines is one of a test.
	p.control.SetWriteDeadline(time.Now().Add(web.Stall))
}

func (p *paced) Write(b []byte) (n int, err error) {
	for {
		p.extend()
		m, err := p.ResponseWriter.Write(b[:min(len(b), web.Piece)])
		n += m
		b = b[m:]
		if err != nil || len(b) == 0 {
			return n, err
		}
	}
}

// ReadFrom lets the server use sendfile, piece by piece. It takes a
// LimitedReader apart, since net looks under one only.
func (p *paced) ReadFrom(r io.Reader) (n int64, err error) {
	limit := &io.LimitedReader{R: r, N: 1<<63 - 1}
	if l, ok := r.(*io.LimitedReader); ok {
		limit.R, limit.N = l.R, l.N
		defer func() { l.N -= n }()
	}
	for limit.N > 0 {
		p.extend()
		want := min(limit.N, web.Piece)
		m, err := io.Copy(p.ResponseWriter, &io.LimitedReader{R: limit.R, N: want})
		n += m
		limit.N -= m
		if err != nil || m < want {
			return n, err
		}
	}
	return n, nil
}
