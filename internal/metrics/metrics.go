// Package metrics counts what publish and node do, in the form that Prometheus
// reads (text format 0.0.4, OpenMetrics 1.0). docs/operations.md, "Metrics",
// lists the names.
//
// Everything is built on a registry that is passed in. Labels have values from
// fixed sets, never hashes, paths or addresses. A nil *Requests, *Transfers or
// *Narinfos counts nothing, so that who counts need not ask whether anybody
// looks.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Path is where a server answers with its metrics.
const Path = "/metrics"

// namespace begins the name of each metric that is ours.
const namespace = "ersatz"

// New returns a registry with what is known of the process itself: its version,
// memory, open files, and Go's own figures.
func New(version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the label says which version runs.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	r.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Handler answers with all metrics of a registry, two requests at a time. Who
// may ask is the caller's business.
func Handler(r prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 2})
}

// counters makes and registers a counter with one label, and the series of each
// of its values, so that none is missing before the first event.
func counters[V ~string](r prometheus.Registerer, name, help, label string, values []V) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, []string{label})
	for _, v := range values {
		c.WithLabelValues(string(v))
	}
	r.MustRegister(c)
	return c
}
