package publish_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"ersatz/internal/metrics"
	"ersatz/internal/publish"
	"ersatz/internal/web"
)

// watched is a listener that counts what its connections are given by ReadFrom
// in the form that net sends by sendfile: bytes, and calls.
type watched struct {
	net.Listener
	bytes, calls *atomic.Int64
}

func (l watched) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return watchedConn{c.(*net.TCPConn), l}, nil
}

type watchedConn struct {
	*net.TCPConn
	by watched
}

func (c watchedConn) ReadFrom(r io.Reader) (int64, error) {
	limit, ok := r.(*io.LimitedReader)
	if ok {
		_, ok = limit.R.(*os.File)
	}
	n, err := c.TCPConn.ReadFrom(r)
	if ok {
		c.by.bytes.Add(n)
		c.by.calls.Add(1)
	}
	return n, err
}

// TestSendfile: through all that is around an answer of net/http, the bytes of a
// nar go from the file to the connection, many at a time, and the server does not
// see them.
func TestSendfile(t *testing.T) {
	baker := newFakeBaker(t)
	data := bytes.Repeat([]byte("0123456789"), 300_001)
	name := "nar/zstd/" + hashOf("a") + "-x"
	baker.write(t, name, data)
	s, err := publish.New(fixedStore{}, signer(t), publish.Options{
		Cache: baker.cache(), Log: discard(), Requests: metrics.NewRequests(prometheus.NewRegistry(), metrics.Web),
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := watched{l, new(atomic.Int64), new(atomic.Int64)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- web.ServeQuick(ctx, []net.Listener{w}, s, s, discard()) }()
	// With the comma, they are net/http's.
	url := "http://" + l.Addr().String() + "/" + name
	if got := do(t, http.MethodGet, url, "Range", "bytes=0-,"); got.err != nil || !bytes.Equal(got.body, data) {
		t.Errorf("%s, %d bytes, %v", got.Status, len(got.body), got.err)
	}
	const sniffed = 512 // are copied by net/http, with the head
	if n, calls := w.bytes.Load(), w.calls.Load(); n != int64(len(data))-sniffed || calls > n/100_000 {
		t.Errorf("%d bytes of %d by sendfile, in %d pieces", n, len(data), calls)
	}
	if got := do(t, http.MethodGet, url, "Range", "bytes=5-2000004,"); got.err != nil || !bytes.Equal(got.body, data[5:2_000_005]) {
		t.Errorf("%s, %d bytes, %v", got.Status, len(got.body), got.err)
	}
	if n := w.bytes.Load(); n != int64(len(data))+2_000_000-2*sniffed {
		t.Errorf("with a part of it, %d bytes by sendfile", n)
	}
	cancel()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
