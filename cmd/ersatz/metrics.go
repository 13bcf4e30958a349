package main

import (
	"fmt"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"ersatz/internal/metrics"
	"ersatz/internal/web"
)

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
		return nil, fmt.Errorf("--metrics-listen: listening on %s: %w", address, local(err))
	}
	return []net.Listener{l}, nil
}
