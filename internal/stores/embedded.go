package stores

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// ipfsStart is how long it usually takes to find who has a content in the DHT.
const ipfsStart = 2 * time.Second

// public stands in bootstrap= for the peers that everybody joins by.
const public = "public"

func ipfsSchemes() []scheme {
	return []scheme{{
		name: schemeIPFS, form: "ipfs:[?listen=MULTIADDR&peer=MULTIADDR&bootstrap=MULTIADDR&dht=MODE]",
		params: map[string]paramRule{
			"listen": {many: true, check: multiaddr}, "peer": {many: true, check: multiaddr}, "relay": {many: true, check: multiaddr},
			"bootstrap":     {many: true, check: bootstrap},
			"dht":           {check: oneOf("off", "client", "server", "auto")},
			"relay-service": {check: oneOf("on", "off")}, "port-map": {check: oneOf("on", "off")},
		},
		check: noPath,
		whole: true, public: true, one: true,
		uses: useFrom | useTo | useServe,
		open: openIPFS,
	}}
}

// multiaddr looks at no more than the beginning of an address; who opens it
// looks at the rest.
func multiaddr(s string) error {
	if !strings.HasPrefix(s, "/") {
		return fmt.Errorf("%.40q is no multiaddr, such as /ip4/0.0.0.0/tcp/4001", s)
	}
	return nil
}

func bootstrap(s string) error {
	if s == public {
		return nil
	}
	return multiaddr(s)
}

func oneOf(values ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(values, s) {
			return fmt.Errorf("%.20q is none of %s", s, strings.Join(values, ", "))
		}
		return nil
	}
}

// noPath refuses a path where a scheme has none.
func noPath(u *URL) error {
	if u.path != "" {
		return fmt.Errorf("has a path, which %s: knows nothing of", u.scheme)
	}
	return nil
}
