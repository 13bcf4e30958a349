package upstream

import (
	"fmt"
	"io"
	"time"

	"ersatz/internal/transport/httpclient"
)

const (
	// nearPace is how many bytes a second a near server gives at least, over
	// each paceTime that it is waited for. What it has is asked for before what
	// others have, and anybody can be one: it must not hold an item up.
	nearPace = 128 << 10
	paceTime = 10 * time.Second
)

// paced is a body of which enough has to come. Its error is one of which Waited
// is true.
type paced struct {
	io.ReadCloser
	waited time.Duration
	got    int64 // bytes, in that time
}

// atPace returns the body of an answer of the server.
func (s *Server) atPace(body io.ReadCloser) io.ReadCloser {
	if s.peer && s.Near() {
		return &paced{ReadCloser: body}
	}
	return body
}

func (p *paced) Read(b []byte) (int, error) {
	start := time.Now()
	n, err := p.ReadCloser.Read(b)
	p.waited += time.Since(start)
	p.got += int64(n)
	if p.waited < paceTime {
		return n, err
	}
	if pace := float64(p.got) / p.waited.Seconds(); err == nil && pace < nearPace {
		err = fmt.Errorf("%w that is worth it: %.0f bytes a second", httpclient.ErrIdle, pace)
	}
	p.waited, p.got = 0, 0
	return n, err
}
