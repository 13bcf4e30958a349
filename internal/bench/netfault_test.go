package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"ersatz/internal/transport/n2r"
)

// faulty starts a proxy in front of a server and returns its URL.
func faulty(t *testing.T, f fault, target http.Handler) (*faultyProxy, string) {
	t.Helper()
	back := httptest.NewServer(target)
	t.Cleanup(back.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := newFaultyProxy(l, back.Listener.Addr().String(), (&net.Dialer{}).DialContext, f)
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	return p, "http://" + l.Addr().String()
}

func respond(body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
}

// ask posts nothing and returns the answer.
func ask(t *testing.T, url string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}

// batch is an answer to a request for blocks, of which some are missing, and
// where each block begins.
func batch(count int) (body []byte, begins []int) {
	for k := range count {
		if k%7 == 3 {
			body = binary.BigEndian.AppendUint32(body, 0)
			continue
		}
		body = binary.BigEndian.AppendUint32(body, 1024)
		begins = append(begins, len(body))
		body = append(body, bytes.Repeat([]byte{byte(k)}, 1024)...)
	}
	return body, begins
}

// wantLies wants that got differs from body in one bit at each tenth place.
func wantLies(t *testing.T, got, body []byte, begins []int) {
	t.Helper()
	want := bytes.Clone(body)
	for k, at := range begins {
		if k%lieEvery == lieEvery-1 {
			want[at] ^= 1
		}
	}
	if !bytes.Equal(got, want) || len(begins) >= lieEvery && bytes.Equal(got, body) {
		t.Errorf("of %d bytes in %d blocks, others were changed than each tenth", len(body), len(begins))
	}
}

// TestLiar checks which bytes are changed, however the answer is cut into
// pieces.
func TestLiar(t *testing.T) {
	body, begins := batch(50)
	for name, cut := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader,
	} {
		t.Run(name, func(t *testing.T) {
			p := &faultyProxy{fault: lies}
			got, err := io.ReadAll(cut(&liar{from: cut(bytes.NewReader(body)), proxy: p, framed: true}))
			if err != nil {
				t.Fatal(err)
			}
			wantLies(t, got, body, begins)
			if p.spoilt.Load() != int64(len(begins)/lieEvery) {
				t.Errorf("%d lies in %d blocks", p.spoilt.Load(), len(begins))
			}
		})
	}
}

// TestProxyLies: batches, nars and single blocks are counted together, and
// nothing else is changed.
func TestProxyLies(t *testing.T) {
	body, begins := batch(30)
	_, url := faulty(t, lies, respond(body))
	got, err := ask(t, url+n2r.BatchPath)
	if err != nil {
		t.Fatal(err)
	}
	wantLies(t, got, body, begins)
	if got, err := ask(t, url+"/eris/have"); err != nil || !bytes.Equal(got, body) {
		t.Errorf("what is no block was changed, or %v", err)
	}

	nar := bytes.Repeat([]byte("nar"), 300_000)
	_, url = faulty(t, lies, respond(nar))
	if got, err = ask(t, url+"/nar/item"); err != nil {
		t.Fatal(err)
	}
	begins = nil
	for at := 0; at < len(nar); at += 32 << 10 {
		begins = append(begins, at)
	}
	wantLies(t, got, nar, begins)

	p, url := faulty(t, lies, respond(nar[:1024]))
	for k := range 2 * lieEvery {
		got, err := ask(t, url+n2r.BlockPath)
		if err != nil || bytes.Equal(got, nar[:1024]) != (k%lieEvery != lieEvery-1) {
			t.Errorf("block %d: %v", k, err)
		}
	}
	if p.spoilt.Load() != 2 {
		t.Errorf("%d lies", p.spoilt.Load())
	}
}

// TestProxyStalls: what comes after enough has passed does not come, and the
// proxy ends when it is closed, or the client goes.
func TestProxyStalls(t *testing.T) {
	p, url := faulty(t, stalls, respond(make([]byte, stallAfter/2-1)))
	for range 2 {
		if got, err := ask(t, url+n2r.BatchPath); err != nil || len(got) != stallAfter/2-1 {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+n2r.BatchPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, res.Body); ended <- err }()
	select {
	case err := <-ended:
		t.Errorf("ended with %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || p.spoilt.Load() != 1 {
		t.Errorf("%v, %d stalls", err, p.spoilt.Load())
	}
}

// TestProxyResets: an answer that is short passes, others end in a reset.
func TestProxyResets(t *testing.T) {
	p, url := faulty(t, resets, respond(make([]byte, resetAfter-1)))
	if got, err := ask(t, url+n2r.BatchPath); err != nil || len(got) != resetAfter-1 || p.spoilt.Load() != 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	p, url = faulty(t, resets, respond(make([]byte, 4*resetAfter)))
	got, err := ask(t, url+n2r.BatchPath)
	if !errors.Is(err, syscall.ECONNRESET) || len(got) > resetAfter || p.spoilt.Load() != 1 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestNames(t *testing.T) {
	const source = "http://10.77.0.2:8182"
	line := "level=WARN msg=\"source of blocks dropped\" source=" + source + " block=X error=\"eris: block X: bytes do not match the reference\"\n"
	for log, want := range map[string]bool{
		"": false, line: true, "other\n" + line + "other\n": true,
		strings.ReplaceAll(line, "0.2:", "0.3:"):                                false,
		strings.ReplaceAll(line, "do not match", "match"):                       false,
		"source=" + source + " error=EOF\nerror=\"do not match the reference\"": false,
		strings.ReplaceAll(line, ":8182 ", ":81820 "):                           false,
	} {
		if names(log, source) != want {
			t.Errorf("%q: not %v", log, want)
		}
	}
}
