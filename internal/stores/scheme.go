package stores

import (
	"context"
	"slices"
)

// The schemes.
const (
	schemeHTTP       = "http"
	schemeHTTPS      = "https"
	schemeCoAPTCP    = "coap+tcp"
	schemeCoAP       = "coap"
	schemeCoAPS      = "coaps"
	schemeKubo       = "ipfs+http"
	schemeKuboTLS    = "ipfs+https"
	schemeGateway    = "gateway+http"
	schemeGatewayTLS = "gateway+https"
	schemeIPFS       = "ipfs"
	schemeGNUnet     = "gnunet"
	schemeTorrent    = "bittorrent"
	schemeNDN        = "ndn"
	schemeFile       = "file"
)

// scheme is what store URLs of a scheme may say, and what they can be used for.
type scheme struct {
	name, form string
	host, user bool
	params     map[string]paramRule

	// check looks at what the other rules leave open, and may fill in what
	// is left out. secret says whether a path is one. Default: nothing to do, no.
	check  func(*URL) error
	secret func(path string) bool

	// uses are what URLs of it can be used for. With asks, --to is not enough
	// for a URL to be put to: it says "put" itself.
	uses use
	asks bool

	// whole is whether blocks are not put to it one by one, but contents.
	// public is whether what is served to it goes to people whom nobody has
	// chosen. one is whether all of its URLs together mean one host in a network.
	whole, public, one bool

	// open opens what u is used for. u is what several URLs say together.
	open func(ctx context.Context, s *Set, u URL, uses use) error
}

// paramRule is what a parameter may be.
type paramRule struct {
	many  bool // whether it may stand several times
	check func(value string) error
}

// use is what a URL is used for, or several of that.
type use int

const (
	useFrom use = 1 << iota
	useTo
	useServe
)

func (u use) has(v use) bool { return u&v != 0 }

func allSchemes() []scheme {
	return slices.Concat(httpSchemes(), coapSchemes(), kuboSchemes(), gatewaySchemes(), ipfsSchemes(),
		torrentSchemes(), ndnSchemes(), gnunetSchemes(), fileSchemes())
}

func schemeOf(name string) (scheme, bool) {
	all := allSchemes()
	if i := slices.IndexFunc(all, func(s scheme) bool { return s.name == name }); i >= 0 {
		return all[i], true
	}
	return scheme{}, false
}

// Schemes returns the schemes that store URLs can have, such as "coap+tcp".
func Schemes() (names []string) {
	for _, s := range allSchemes() {
		names = append(names, s.name)
	}
	return names
}

// names returns the parameters, in order.
func (s scheme) names() (names []string) {
	for n := range s.params {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Public reports whether what is served to the URL goes to people whom nobody
// has chosen, such as all of IPFS.
func (u URL) Public() bool {
	s, _ := schemeOf(u.scheme)
	return s.public
}

// Whole reports whether whole contents are put to the URL, out of a Library, and
// not blocks one by one.
func (u URL) Whole() bool {
	s, _ := schemeOf(u.scheme)
	return s.whole
}
