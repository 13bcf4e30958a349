// Package nodeapi has what a node answers on its Unix socket (docs/node.md,
// "Unix socket"), and a client of it that links nothing of the node.
package nodeapi

import "time"

// The requests.
const (
	NarPath    = "/v1/nar"    // POST NarRequest
	AheadPath  = "/v1/ahead"  // POST AheadRequest
	HavePath   = "/v1/have"   // POST HaveRequest: [][]Claim, by hash
	PeersPath  = "/v1/peers"  // GET []Peer
	StatusPath = "/v1/status" // GET Status

	// SourceHeader says to people where a nar comes from.
	SourceHeader = "Ersatz-Source"
)

// Limits of requests.
const (
	MaxNarinfos  = 128      // of one nar
	MaxNarBody   = 8 << 20  // bytes of a request for a nar
	MaxAhead     = 1 << 13  // narinfos of a query set
	MaxAheadBody = 16 << 20 // bytes of a query set
	MaxHave      = 1 << 10  // hashes of one question about peers
	MaxHaveBody  = 1 << 17  // bytes of it
)

// Narinfo is a narinfo that the client accepts, and the URL of the server that
// gave it.
type Narinfo struct {
	Server string `json:"server"`
	Text   string `json:"text"`
}

// NarRequest asks for the nar of a store path. The narinfos are of this path
// and of one content, best first.
type NarRequest struct {
	Path     string    `json:"path"`
	Narinfos []Narinfo `json:"narinfos"`
}

// AheadRequest says what may be asked for soon.
type AheadRequest struct {
	Narinfos []Narinfo `json:"narinfos"`
}

// HaveRequest asks what peers hold of nars, by their NarHashes as narinfos have
// them.
type HaveRequest struct {
	NarHashes []string `json:"nar_hashes"`
}

// Claim is what a peer says that it holds of a nar. Nothing of it is verified.
type Claim struct {
	Peer   string `json:"peer"` // its URL
	URN    string `json:"urn"`  // of the compressed nar
	Format string `json:"format"`
	Part   bool   `json:"part,omitempty"` // some blocks are missing
}

// Kinds of peers.
const (
	KindNode    = "node"
	KindPublish = "publish"
)

// Peer is another node, or a substitute server, for people and scripts.
type Peer struct {
	Name  string    `json:"name"` // as announced; of one named by --peer, its URL
	URL   string    `json:"url"`
	Kind  string    `json:"kind"`
	Named bool      `json:"named,omitempty"` // by --peer; the others were found
	Near  bool      `json:"near,omitempty"`  // on the local network
	Since time.Time `json:"since"`           // when it was found, or when the node started
	Seen  time.Time `json:"seen,omitzero"`   // when it was last heard of; zero if it never was
	// How it does: latency and time per block as learnt, blocks and bytes since
	// the node's start, and why it is not asked at the moment.
	LatencyMS  float64 `json:"latency_ms,omitempty"`
	PerBlockMS float64 `json:"per_block_ms,omitempty"`
	Blocks     int64   `json:"blocks"`
	Bytes      int64   `json:"bytes"`
	Error      string  `json:"error,omitempty"`
}

// Status is what a node is doing.
type Status struct {
	Version   string     `json:"version"`
	Started   time.Time  `json:"started"`
	Listen    []string   `json:"listen"` // addresses, HOST:PORT
	State     string     `json:"state"`  // folder of what is kept
	Share     string     `json:"share"`
	Upstreams []Upstream `json:"upstreams"`
	Networks  []Network  `json:"networks,omitempty"`
	Kept      Kept       `json:"kept"`
}

// Network is a store or a network that blocks are got from, or given to.
type Network struct {
	URL  string `json:"url"`  // without secrets
	Kind string `json:"kind"` // the URL's scheme

	// Of one that blocks are got from: how long it takes to begin, and the rest as
	// of a Peer.
	From       bool    `json:"from,omitempty"`
	StartMS    float64 `json:"start_ms,omitempty"`
	LatencyMS  float64 `json:"latency_ms,omitempty"`
	PerBlockMS float64 `json:"per_block_ms,omitempty"`
	Blocks     int64   `json:"blocks,omitempty"`
	Bytes      int64   `json:"bytes,omitempty"`
	Error      string  `json:"error,omitempty"`

	// Of one that others get blocks from: where it is listened, if at an address,
	// and how many contents a network was given, is to be given or rid of, and of
	// which the last attempt failed.
	Serve      bool     `json:"serve,omitempty"`
	Listen     []string `json:"listen,omitempty"`
	Offered    int      `json:"offered,omitempty"`
	Waiting    int      `json:"waiting,omitempty"`
	Failed     int      `json:"failed,omitempty"`
	ServeError string   `json:"serve_error,omitempty"` // of the last attempt
}

// Upstream is what is known of an upstream. Its kind and store folder are ""
// as long as it has never answered.
type Upstream struct {
	URL      string `json:"url"`
	Kind     string `json:"kind"` // guix or nix
	StoreDir string `json:"store_dir"`
	Answered bool   `json:"answered"` // since the start
}

// Kept is what the state folder has, in bytes on disk.
type Kept struct {
	Items     int   `json:"items"`
	ItemBytes int64 `json:"item_bytes"`
	Parts     int   `json:"parts"`
	PartBytes int64 `json:"part_bytes"`
	Quota     int64 `json:"quota"`
}
