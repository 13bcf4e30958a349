package metrics

import "github.com/prometheus/client_golang/prometheus"

// Outcome is how the transfer of an item ended.
type Outcome string

// The outcomes.
const (
	Done      Outcome = "done"      // all of it came, and NarHash was right
	Failed    Outcome = "failed"    // every source failed
	Absent    Outcome = "absent"    // nobody has it
	Cancelled Outcome = "cancelled" // nobody wanted it any more, or the node ended
)

// Source is a kind of source of bytes.
type Source string

// The kinds of sources.
const (
	Kept Source = "kept" // this node had them already
	Near Source = "near" // blocks of the local network
	Far  Source = "far"  // blocks of servers and peers elsewhere
	Nar  Source = "nar"  // nars, or ranges of them

	// Blocks of the stores and networks that have a kind of URL.
	File       Source = "file"
	HTTP       Source = "http"
	CoAP       Source = "coap"
	IPFS       Source = "ipfs" // also of daemons and gateways
	BitTorrent Source = "bittorrent"
	NDN        Source = "ndn"
	GNUnet     Source = "gnunet"
	Unknown    Source = "other"
)

// sourceKinds are all kinds of sources.
var sourceKinds = []Source{Kept, Near, Far, Nar, File, HTTP, CoAP, IPFS, BitTorrent, NDN, GNUnet, Unknown}

// SourceOf returns the kind of a network by the scheme of its URL, such as
// coap+tcp.
func SourceOf(scheme string) Source {
	switch scheme {
	case "https":
		return HTTP
	case "coap+tcp", "coaps":
		return CoAP
	case "ipfs+http", "ipfs+https", "gateway+http", "gateway+https", "gateway":
		return IPFS
	case string(File), string(HTTP), string(CoAP), string(IPFS), string(BitTorrent), string(NDN), string(GNUnet):
		return Source(scheme)
	}
	return Unknown
}

// ahead is what becomes of an item that is fetched before it is asked for.
type ahead string

const (
	aheadFetched ahead = "fetched"
	aheadUsed    ahead = "used"
)

// Transfers counts what a node fetches. It is safe for concurrent use.
type Transfers struct {
	items, bytes, ahead *prometheus.CounterVec
}

// NewTransfers registers the counters of transfers.
func NewTransfers(r prometheus.Registerer) *Transfers {
	return &Transfers{
		items: counters(r, "transfers_total", "Items whose transfer has ended, by outcome.",
			"outcome", []Outcome{Done, Failed, Absent, Cancelled}),
		bytes: counters(r, "transfer_bytes_total", "Bytes of items, compressed as they came, by kind of source.",
			"source", sourceKinds),
		ahead: counters(r, "ahead_items_total", "Items fetched before they were asked for, and how many of them were asked for later.",
			"event", []ahead{aheadFetched, aheadUsed}),
	}
}

// Ended counts a transfer.
func (t *Transfers) Ended(o Outcome) {
	if t != nil {
		t.items.WithLabelValues(string(o)).Inc()
	}
}

// Got counts bytes that a source gave and that were right, or of an item that
// was kept when somebody asked for it.
func (t *Transfers) Got(s Source, bytes int64) {
	if t != nil {
		t.bytes.WithLabelValues(string(s)).Add(float64(bytes))
	}
}

// AheadFetched counts an item that has come before anybody asked for it.
func (t *Transfers) AheadFetched() {
	if t != nil {
		t.ahead.WithLabelValues(string(aheadFetched)).Inc()
	}
}

// AheadUsed counts one of those when somebody asks for it.
func (t *Transfers) AheadUsed() {
	if t != nil {
		t.ahead.WithLabelValues(string(aheadUsed)).Inc()
	}
}
