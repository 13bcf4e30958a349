package metrics

import "github.com/prometheus/client_golang/prometheus"

// answer is where what is said of an item comes from.
type answer string

const (
	cached answer = "cached"
	asked  answer = "asked"
)

// Narinfos counts the narinfos that are looked up at upstreams. It is safe for
// concurrent use.
type Narinfos struct{ total *prometheus.CounterVec }

// NewNarinfos registers the counters of narinfos.
func NewNarinfos(r prometheus.Registerer) *Narinfos {
	return &Narinfos{counters(r, "upstream_narinfos_total", "Narinfos looked up, per upstream: in the cache of texts, or by asking.",
		"from", []answer{cached, asked})}
}

// Looked counts look-ups: how many the cache answered, and how many servers
// were to be asked.
func (n *Narinfos) Looked(fromCache, fromServers int) {
	if n != nil {
		n.total.WithLabelValues(string(cached)).Add(float64(fromCache))
		n.total.WithLabelValues(string(asked)).Add(float64(fromServers))
	}
}
