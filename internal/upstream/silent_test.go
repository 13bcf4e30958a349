package upstream

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
)

// gone is a network on which a server is there, or not.
type gone struct {
	network
	gone bool
}

func (g *gone) RoundTrip(r *http.Request) (*http.Response, error) {
	if g.gone {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	return g.network.RoundTrip(r)
}

// TestSaidOnce: people are told once that a server does not answer, however often
// it is asked, and again when it has answered meanwhile.
func TestSaidOnce(t *testing.T) {
	var log bytes.Buffer
	g := &gone{network: network{asked: map[string]int{}}}
	c := New(&http.Client{Transport: g}, nil, Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	sv := server(t, "http://a")
	for _, x := range []struct {
		gone bool
		said int
	}{{false, 0}, {true, 1}, {true, 1}, {true, 1}, {false, 1}, {true, 2}, {true, 2}} {
		g.gone = x.gone
		if a := c.AskHash(t.Context(), []*Server{sv}, hash); a[0].Err == nil {
			t.Errorf("%+v", a)
		}
		if n := strings.Count(log.String(), "does not answer"); n != x.said {
			t.Errorf("said %d times, want %d:\n%s", n, x.said, log.String())
		}
	}
	must(t, c.Close())
}
