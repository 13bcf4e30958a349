package metrics

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"ersatz/internal/share"
)

// RegisterShares has each reading of the metrics ask once for what networks have
// been given. Networks of one kind are counted together.
func RegisterShares(r prometheus.Registerer, status func() []share.Status) {
	contents := desc("shared_contents", "Contents that networks were given, are to be given or rid of, and of which the last attempt failed.",
		"network", "state")
	r.MustRegister(reading{[]*prometheus.Desc{contents}, func(s samples) {
		kinds := map[string]share.Status{}
		for _, one := range status() {
			sum := kinds[one.Kind]
			sum.Offered += one.Offered
			sum.Waiting += one.Waiting
			sum.Failed += one.Failed
			kinds[one.Kind] = sum
		}
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			s.gauge(contents, float64(kinds[kind].Offered), kind, "offered")
			s.gauge(contents, float64(kinds[kind].Waiting), kind, "waiting")
			s.gauge(contents, float64(kinds[kind].Failed), kind, string(Failed))
		}
	}})
}
