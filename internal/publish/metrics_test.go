package publish_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"ersatz/internal/metrics"
	"ersatz/internal/publish"
)

// TestMetrics counts requests by what they ask for.
func TestMetrics(t *testing.T) {
	store := newScratch(t)
	base := store.tree(t, hashOf("a")+"-tree", 100).Path.Base()
	reg := prometheus.NewRegistry()
	url := serve(t, store.db, publish.Options{NarPath: "a/b", Cache: newFakeBaker(t).cache(), Requests: metrics.NewRequests(reg, metrics.Web)})
	for path, status := range map[string]int{
		"/healthz":                         http.StatusOK,
		"/" + hashOf("a") + ".narinfo":     http.StatusOK,
		"/a/b/" + base:                     http.StatusOK,
		"/uri-res/N2R?urn:blake2b:x":       http.StatusBadRequest,
		"/eris/blocks":                     http.StatusMethodNotAllowed,
		"/nar/" + base:                     http.StatusNotFound,
		"/" + strings.Repeat("n", 5000):    http.StatusRequestURITooLong,
		"/" + hashOf("b") + ".narinfo?x=y": http.StatusNotFound,
	} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
		if resp.StatusCode != status {
			t.Errorf("%.80s: %s, not %d", path, resp.Status, status)
		}
	}
	w := httptest.NewRecorder()
	metrics.Handler(reg).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	for _, line := range []string{
		`code="200",face="web",kind="other"} 1`,
		`code="200",face="web",kind="narinfo"} 1`,
		`code="404",face="web",kind="narinfo"} 1`,
		`code="200",face="web",kind="nar"} 1`,
		`code="400",face="web",kind="block"} 1`,
		`code="405",face="web",kind="batch"} 1`,
		`code="404",face="web",kind="other"} 1`,
		`code="414",face="web",kind="other"} 1`,
	} {
		if !strings.Contains(w.Body.String(), "\nersatz_http_requests_total{"+line+"\n") {
			t.Errorf("no %s in\n%s", line, w.Body)
		}
	}
}
