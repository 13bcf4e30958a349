package node

import (
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"ersatz/internal/metrics"
)

// TestMetrics counts what is answered, to whom, and tells this machine alone.
func TestMetrics(t *testing.T) {
	r := newRig(t)
	reg := prometheus.NewRegistry()
	r.o.Requests, r.o.Metrics = metrics.NewRequests(reg, metrics.Local, metrics.Shared), metrics.Handler(reg)
	it := makeItem(t, guixItem, "the nar", true, "")
	r.publish(guixServer, it)
	r.o.Share = ShareLAN
	r.start(guixServer)
	narinfo := "/" + it.path.Hash + ".narinfo"
	r.want(r.get("", "GET", narinfo), http.StatusOK)
	r.want(r.get("", "GET", "/nar/"+it.path.Base()), http.StatusOK)
	r.want(r.get("", "GET", "/nix"+narinfo), http.StatusNotFound)
	r.want(r.get("192.168.1.2:1", "GET", narinfo), http.StatusNotFound)
	r.want(r.get("8.8.8.8:1", "POST", "/eris/have"), http.StatusForbidden)
	r.want(r.get("192.168.1.2:1", "GET", "/metrics"), http.StatusNotFound)
	r.want(r.get("8.8.8.8:1", "GET", "/metrics"), http.StatusForbidden)
	w := r.get("", "GET", "/metrics")
	text := w.Body.String()
	if w.Code != http.StatusOK {
		t.Errorf("status %d", w.Code)
	}
	for _, line := range []string{
		`http_requests_total{code="200",face="local",kind="narinfo"} 1`,
		`http_requests_total{code="404",face="local",kind="narinfo"} 1`,
		`http_requests_total{code="200",face="local",kind="nar"} 1`,
		`http_requests_total{code="404",face="shared",kind="narinfo"} 1`,
		`http_requests_total{code="403",face="shared",kind="have"} 1`,
		`http_requests_total{code="404",face="shared",kind="other"} 1`,
		`http_sent_bytes_total{face="local",kind="nar"} 7`,
	} {
		if !strings.Contains(text, "\nersatz_"+line+"\n") {
			t.Errorf("no %s in\n%s", line, text)
		}
	}
}

func TestRequestKind(t *testing.T) {
	for path, want := range map[string]metrics.Kind{
		"/uri-res/N2R":    metrics.Block,
		"/eris/blocks":    metrics.Batch,
		"/eris/have":      metrics.Have,
		"/x.narinfo":      metrics.Narinfo,
		"/nix/x.narinfo":  metrics.Narinfo,
		"/nix/nar/x":      metrics.NarFile,
		"/nar/x":          metrics.NarFile,
		"/nix-cache-info": metrics.Other,
		"/healthz":        metrics.Other,
		"":                metrics.Other,
	} {
		if got := requestKind(path); got != want {
			t.Errorf("%s: %s, not %s", path, got, want)
		}
	}
}
