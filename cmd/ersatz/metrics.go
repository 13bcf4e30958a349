package main

import (
	"fmt"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"ersatz/internal/metrics"
	"ersatz/internal/node"
	"ersatz/internal/upstream"
	"ersatz/internal/web"
)

// countNode registers what a node's faces and its upstreams are asked for.
func countNode(r *prometheus.Registry, n *node.Options, up *upstream.Options) {
	n.Requests = metrics.NewRequests(r, metrics.Local, metrics.Shared, metrics.Socket)
	n.Metrics = metrics.Handler(r)
	narinfos := metrics.NewNarinfos(r)
	up.Progress = func(pending []upstream.Pending) func(int) {
		for _, p := range pending {
			narinfos.Looked(p.Cached, p.Count)
		}
		return func(int) {}
	}
}

// metricsHandler answers on publish's socket for metrics, and nothing else.
func metricsHandler(r prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+metrics.Path, metrics.Handler(r))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { web.Plain(w, r, http.StatusOK, "ok\n") })
	return mux
}

// listenMetrics binds the address of --metrics-listen; "" binds nothing.
func listenMetrics(address string) ([]net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", address, local(err))
	}
	return []net.Listener{l}, nil
}
