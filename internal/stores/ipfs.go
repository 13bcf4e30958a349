//go:build !noipfs

package stores

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"ersatz/internal/block"
	"ersatz/internal/fetch"
	"ersatz/internal/share"
	"ersatz/internal/transport/bitswap"
)

// openIPFS starts a host of this process.
func openIPFS(ctx context.Context, s *Set, u URL, uses use) error {
	o := ipfsOptions(u, uses)
	o.Limiter, o.UserAgent, o.Log = s.o.Limiter, s.o.UserAgent, s.o.Log
	if s.o.State != "" {
		o.State = filepath.Join(s.o.State, "ipfs")
	}
	var lib block.Getter
	serves := uses.has(useTo | useServe)
	if serves {
		lib = s.o.Library
	}
	host, err := bitswap.New(ctx, lib, o)
	if errors.Is(err, bitswap.ErrOptions) {
		return invalid("%v", err)
	}
	if err != nil {
		return err
	}
	s.onClose(host.Close)
	if uses.has(useFrom) {
		s.source(u, host, fetch.Network{Start: ipfsStart})
	}
	if serves {
		// What names the same host after a restart need not be announced again.
		s.sink(u, share.Sink{Net: share.Plain(host), Renew: bitswap.Renew, Keeps: o.State != "", Parallel: 8})
		s.listeners = append(s.listeners, Listener{Name: u.name(), URL: u, Multiaddrs: host.Addrs()})
		s.o.Log.Info("IPFS host", slog.String("id", host.ID()), slog.Any("addresses", host.Addrs()))
	}
	return nil
}

// ipfsOptions returns what u says, with defaults. Who names peers, and nothing of
// the DHT, does not want to be known there; all others join the public network,
// unless they say by whom else.
func ipfsOptions(u URL, uses use) bitswap.Options {
	o := bitswap.Options{
		Listen: u.Params("listen"), Peers: u.Params("peer"), Relays: u.Params("relay"),
		DHT:          bitswap.DHTMode(u.param("dht")),
		RelayService: u.param("relay-service") == "on", PortMap: u.param("port-map") == "on",
	}
	for _, b := range u.Params("bootstrap") {
		if b == public {
			o.Bootstrap = append(o.Bootstrap, bitswap.PublicBootstrap()...)
		} else {
			o.Bootstrap = append(o.Bootstrap, b)
		}
	}
	serves := uses.has(useTo | useServe)
	switch {
	case o.DHT != "":
	case len(o.Peers) > 0 && len(o.Bootstrap) == 0:
		o.DHT = bitswap.DHTOff
	case serves:
		o.DHT = bitswap.DHTAuto
	default:
		o.DHT = bitswap.DHTClient
	}
	if o.DHT != bitswap.DHTOff && len(o.Bootstrap) == 0 {
		o.Bootstrap = bitswap.PublicBootstrap()
	}
	if serves && len(o.Listen) == 0 {
		port := "0"
		if uses.has(useServe) {
			port = "4001"
		}
		for _, ip := range []string{"/ip4/0.0.0.0", "/ip6/::"} {
			o.Listen = append(o.Listen, ip+"/tcp/"+port, ip+"/udp/"+port+"/quic-v1")
		}
	}
	return o
}
