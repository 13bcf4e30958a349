package metrics_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"ersatz/internal/bake"
	"ersatz/internal/keep"
	"ersatz/internal/metrics"
)

// read asks a registry as Prometheus does and returns the samples that have
// the prefix, as "name{label=value,…} value".
func read(t *testing.T, r prometheus.Gatherer, prefix string) []string {
	t.Helper()
	w := httptest.NewRecorder()
	metrics.Handler(r).ServeHTTP(w, httptest.NewRequest(http.MethodGet, metrics.Path, nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	problems, err := promlint.New(bytes.NewReader(w.Body.Bytes())).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	d := expfmt.SampleDecoder{
		Dec:  expfmt.NewDecoder(w.Body, expfmt.NewFormat(expfmt.TypeTextPlain)),
		Opts: &expfmt.DecodeOptions{Timestamp: model.Now()},
	}
	var out []string
	for {
		var v model.Vector
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range v {
			if text := s.Metric.String() + " " + s.Value.String(); strings.HasPrefix(text, prefix) {
				out = append(out, text)
			}
		}
	}
	slices.Sort(out)
	return out
}

func want(t *testing.T, r prometheus.Gatherer, prefix string, lines ...string) {
	t.Helper()
	if got := read(t, r, prefix); !slices.Equal(got, lines) {
		t.Errorf("%s:\n%s\nnot\n%s", prefix, strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
}

func TestProcess(t *testing.T) {
	r := metrics.New("1.2")
	want(t, r, "ersatz_", `ersatz_build_info{version="1.2"} 1`)
	if len(read(t, r, "process_resident_memory_bytes ")) != 1 {
		t.Error("nothing of memory")
	}
}

func TestTransfers(t *testing.T) {
	r := prometheus.NewRegistry()
	c := metrics.NewTransfers(r)
	c.Ended(metrics.Done)
	c.Ended(metrics.Done)
	c.Ended(metrics.Absent)
	c.Got(metrics.Near, 5)
	c.Got(metrics.Near, 7)
	c.Got(metrics.Nar, 1)
	c.Got(metrics.SourceOf("coap+tcp"), 3)
	c.Got(metrics.SourceOf("carrier-pigeon"), 2)
	c.AheadFetched()
	c.AheadFetched()
	c.AheadUsed()
	want(t, r, "ersatz_",
		`ersatz_ahead_items_total{event="fetched"} 2`,
		`ersatz_ahead_items_total{event="used"} 1`,
		`ersatz_transfer_bytes_total{source="bittorrent"} 0`,
		`ersatz_transfer_bytes_total{source="coap"} 3`,
		`ersatz_transfer_bytes_total{source="far"} 0`,
		`ersatz_transfer_bytes_total{source="file"} 0`,
		`ersatz_transfer_bytes_total{source="gnunet"} 0`,
		`ersatz_transfer_bytes_total{source="http"} 0`,
		`ersatz_transfer_bytes_total{source="ipfs"} 0`,
		`ersatz_transfer_bytes_total{source="kept"} 0`,
		`ersatz_transfer_bytes_total{source="nar"} 1`,
		`ersatz_transfer_bytes_total{source="ndn"} 0`,
		`ersatz_transfer_bytes_total{source="near"} 12`,
		`ersatz_transfer_bytes_total{source="other"} 2`,
		`ersatz_transfers_total{outcome="absent"} 1`,
		`ersatz_transfers_total{outcome="cancelled"} 0`,
		`ersatz_transfers_total{outcome="done"} 2`,
		`ersatz_transfers_total{outcome="failed"} 0`)
}

func TestSourceOf(t *testing.T) {
	for scheme, want := range map[string]metrics.Source{
		"http": metrics.HTTP, "https": metrics.HTTP, "coap": metrics.CoAP, "coap+tcp": metrics.CoAP, "coaps": metrics.CoAP,
		"ipfs": metrics.IPFS, "ipfs+http": metrics.IPFS, "gateway+https": metrics.IPFS, "bittorrent": metrics.BitTorrent,
		"ndn": metrics.NDN, "gnunet": metrics.GNUnet, "file": metrics.File, "near": metrics.Unknown, "": metrics.Unknown,
	} {
		if got := metrics.SourceOf(scheme); got != want {
			t.Errorf("%s: %s, want %s", scheme, got, want)
		}
	}
}

func TestNarinfos(t *testing.T) {
	r := prometheus.NewRegistry()
	n := metrics.NewNarinfos(r)
	n.Looked(3, 0)
	n.Looked(1, 2)
	want(t, r, "ersatz_", `ersatz_upstream_narinfos_total{from="asked"} 2`, `ersatz_upstream_narinfos_total{from="cached"} 4`)
}

func TestState(t *testing.T) {
	r := prometheus.NewRegistry()
	b := bake.Status{Queued: 1, Working: 2, Baked: 3, Failed: 4, Put: 5, Expired: 6, Took: 1500 * time.Millisecond, CPU: 500 * time.Millisecond}
	h := keep.Usage{Items: 1, Parts: 2, ItemBytes: 3, PartBytes: 4, IndexBytes: 5, Quota: 6}
	asked := 0
	metrics.RegisterBakes(r, func() bake.Status { asked++; return b })
	metrics.RegisterKept(r, func() keep.Usage { return h })
	lines := []string{
		`ersatz_bake_cpu_seconds_total 0.5`,
		`ersatz_bake_seconds_total 1.5`,
		`ersatz_bakes_queued 1`,
		`ersatz_bakes_running 2`,
		`ersatz_bakes_total{outcome="done"} 3`,
		`ersatz_bakes_total{outcome="failed"} 4`,
		`ersatz_expired_items_total 6`,
		`ersatz_ipfs_items_total 5`,
		`ersatz_kept_bytes{what="index"} 5`,
		`ersatz_kept_bytes{what="items"} 3`,
		`ersatz_kept_bytes{what="parts"} 4`,
		`ersatz_kept_items{what="items"} 1`,
		`ersatz_kept_items{what="parts"} 2`,
		`ersatz_kept_quota_bytes 6`,
	}
	want(t, r, "ersatz_", lines...)
	if asked != 1 {
		t.Errorf("asked %d times for one reading", asked)
	}
	b.Queued = 7
	lines[2] = `ersatz_bakes_queued 7`
	want(t, r, "ersatz_", lines...)
}

// TestRequests answers over a real connection: statuses, a body sent from a
// file, one that is cut, and one whose handler says nothing.
func TestRequests(t *testing.T) {
	r := prometheus.NewRegistry()
	q := metrics.NewRequests(r, metrics.Web)
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/file":
			q.Serve(w, r, metrics.Web, metrics.NarFile, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
		case "/cut":
			q.Serve(w, r, metrics.Web, metrics.NarFile, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "ab")
				if err := http.NewResponseController(w).Flush(); err != nil { // else the client would ask again
					t.Error(err)
				}
				panic(http.ErrAbortHandler)
			})
		case "/gone":
			q.Serve(w, r, metrics.Web, metrics.Narinfo, http.NotFound)
		default:
			q.Serve(w, r, metrics.Web, metrics.Other, func(w http.ResponseWriter, _ *http.Request) {
				if err := http.NewResponseController(w).SetWriteDeadline(time.Time{}); err != nil {
					t.Error(err) // the connection is not reached
				}
				w.WriteHeader(http.StatusEarlyHints)
			})
		}
	}))
	defer s.Close()
	for _, path := range []string{"/file", "/gone", "/", "/cut"} {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
		if (err != nil) != (path == "/cut") {
			t.Errorf("%s: %v", path, err)
		}
	}
	s.Close() // waits for the handlers
	want(t, r, "ersatz_http_requests_total",
		`ersatz_http_requests_total{code="200", face="web", kind="nar"} 1`,
		`ersatz_http_requests_total{code="200", face="web", kind="other"} 1`,
		`ersatz_http_requests_total{code="404", face="web", kind="narinfo"} 1`,
		`ersatz_http_requests_total{code="cut", face="web", kind="nar"} 1`)
	want(t, r, "ersatz_http_sent_bytes_total",
		`ersatz_http_sent_bytes_total{face="web", kind="batch"} 0`,
		`ersatz_http_sent_bytes_total{face="web", kind="block"} 0`,
		`ersatz_http_sent_bytes_total{face="web", kind="nar"} 100002`,
		`ersatz_http_sent_bytes_total{face="web", kind="narinfo"} 19`,
		`ersatz_http_sent_bytes_total{face="web", kind="other"} 0`)
	want(t, r, "ersatz_http_requests_running", `ersatz_http_requests_running{face="web"} 0`)
}

// readerFrom notes who sends a file.
type readerFrom struct {
	*httptest.ResponseRecorder
	got io.Reader
}

func (r *readerFrom) ReadFrom(from io.Reader) (int64, error) {
	r.got = from
	return io.Copy(r.ResponseRecorder, from)
}

// TestSendfile wants the server's own ResponseWriter to be handed the very
// reader, which it may know how to send without copying.
func TestSendfile(t *testing.T) {
	q := metrics.NewRequests(prometheus.NewRegistry())
	w := &readerFrom{ResponseRecorder: httptest.NewRecorder()}
	body := &io.LimitedReader{R: strings.NewReader("x"), N: 1}
	q.Serve(w, httptest.NewRequest(http.MethodGet, "/", nil), metrics.Web, metrics.NarFile, func(w http.ResponseWriter, _ *http.Request) {
		if n, err := w.(io.ReaderFrom).ReadFrom(body); n != 1 || err != nil {
			t.Error(n, err)
		}
	})
	if w.got != body {
		t.Errorf("the server got a %T", w.got)
	}
}

// TestNil wants those that count nothing to do no harm.
func TestNil(t *testing.T) {
	var q *metrics.Requests
	called := false
	q.Serve(httptest.NewRecorder(), nil, metrics.Web, metrics.Other, func(http.ResponseWriter, *http.Request) { called = true })
	if !called {
		t.Error("not answered")
	}
	var c *metrics.Transfers
	c.Ended(metrics.Done)
	c.Got(metrics.Nar, 1)
	c.Got(metrics.SourceOf("coap+tcp"), 3)
	c.Got(metrics.SourceOf("carrier-pigeon"), 2)
	c.AheadFetched()
	c.AheadUsed()
	var n *metrics.Narinfos
	n.Looked(1, 1)
}
