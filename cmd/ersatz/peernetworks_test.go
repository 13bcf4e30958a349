package main

import (
	"strings"
	"testing"

	"ersatz/internal/nodeapi"
)

func TestPrintNetworks(t *testing.T) {
	var b strings.Builder
	err := printNetworks(&b, []nodeapi.Network{
		{URL: "ipfs", From: true, Serve: true, StartMS: 2100, LatencyMS: 30, PerBlockMS: 1.5, Blocks: 12, Bytes: 393216,
			Offered: 40, Waiting: 2, Failed: 1, Listen: []string{"/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001"}, ServeError: "no peers"},
		{URL: "gnunet:/run/s", From: true, Error: "failed, is asked again in 10s: connection refused"},
	})
	const want = `NETWORK        USE         START        LATENCY  PER BLOCK  BLOCKS  BYTES   OFFERED  WAITING  FAILED
ipfs           from,serve  2.1 s   30 ms    1.5 ms     12      393 kB  40       2        1
gnunet:/run/s  from        -            -        -          0       0 B     0        0        0
ipfs listens at /ip4/192.0.2.1/tcp/4001, /ip6/2001:db8::1/tcp/4001
ipfs could not be given something: no peers
gnunet:/run/s is not asked: failed, is asked again in 10s: connection refused
`
	if got := b.String(); err != nil || strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("%v\n%s", err, got)
	}
}
