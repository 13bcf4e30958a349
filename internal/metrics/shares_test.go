package metrics_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"ersatz/internal/metrics"
	"ersatz/internal/share"
)

func TestShares(t *testing.T) {
	r := prometheus.NewRegistry()
	status := []share.Status{
		{Name: "gnunet:", Kind: "gnunet", Offered: 1, Waiting: 2, Failed: 3},
		{Name: "ipfs+http://a", Kind: "ipfs+http", Offered: 10},
		{Name: "ipfs+http://b", Kind: "ipfs+http", Offered: 5, Failed: 1},
	}
	metrics.RegisterShares(r, func() []share.Status { return status })
	want(t, r, "ersatz_",
		`ersatz_shared_contents{network="gnunet", state="failed"} 3`,
		`ersatz_shared_contents{network="gnunet", state="offered"} 1`,
		`ersatz_shared_contents{network="gnunet", state="waiting"} 2`,
		`ersatz_shared_contents{network="ipfs+http", state="failed"} 1`,
		`ersatz_shared_contents{network="ipfs+http", state="offered"} 15`,
		`ersatz_shared_contents{network="ipfs+http", state="waiting"} 0`,
	)
	status = nil
	want(t, r, "ersatz_")
}
