package stores

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"ersatz/internal/durable"
	"ersatz/internal/fetch"
	"ersatz/internal/share"
	"ersatz/internal/torrent"
	"ersatz/internal/transport/bittorrent"
)

func torrentSchemes() []scheme {
	return []scheme{{
		name: schemeTorrent, form: "bittorrent:[?xt=urn:btih:HASH&tr=URL&x.pe=HOST:PORT&listen=HOST:PORT&dht=on&lsd=on]",
		params: map[string]paramRule{
			"xt": {check: checkExact}, "dn": {},
			"tr": {many: true, check: magnetParam("tr")}, "ws": {many: true, check: magnetParam("ws")},
			"xs": {many: true, check: magnetParam("xs")}, "x.pe": {many: true, check: magnetParam("x.pe")},
			"listen": {check: hostPort}, "bootstrap": {many: true, check: hostPort}, "dht": {check: oneOf("on", "off")}, "lsd": {check: oneOf("on", "off")},
		},
		check: checkTorrent,
		whole: true, public: true, one: true,
		uses: useFrom | useTo | useServe,
		open: openTorrent,
	}}
}

// parseMagnet reads a magnet link as a URL of BitTorrent: what it says beside is
// passed over.
func parseMagnet(s string) (URL, error) {
	m, err := torrent.ParseMagnet(s)
	if err != nil {
		return URL{}, err
	}
	return parse(schemeTorrent + ":" + strings.TrimPrefix(m.String(), "magnet:"))
}

// magnetParam returns a check of a parameter that magnet links have.
func magnetParam(name string) func(string) error {
	return func(value string) error {
		m, err := torrent.ParseMagnet(torrent.Magnet{}.String() + "&" + name + "=" + url.QueryEscape(value))
		if err == nil && len(m.Trackers)+len(m.WebSeeds)+len(m.Sources)+len(m.Peers) != 1 {
			err = fmt.Errorf("%.80q cannot be asked", value)
		}
		return err
	}
}

// exact reads xt, the hash of a torrent.
func exact(value string) (torrent.Magnet, error) {
	return torrent.ParseMagnet("magnet:?xt=" + url.QueryEscape(value))
}

func checkExact(value string) error {
	_, err := exact(value)
	return err
}

func hostPort(s string) error {
	if _, port, err := net.SplitHostPort(s); err != nil || number(port) != nil {
		return fmt.Errorf("%.40q is not HOST:PORT", s)
	}
	return nil
}

// checkTorrent has one spelling of the hash.
func checkTorrent(u *URL) error {
	if err := noPath(u); err != nil {
		return err
	}
	for _, name := range []string{"dn", "ws", "xs"} {
		if u.param("xt") == "" && u.param(name) != "" {
			return fmt.Errorf("has %s, but no xt=urn:btih:HASH", name)
		}
	}
	for i, p := range u.params {
		if p.name == "xt" {
			m, err := exact(p.value)
			if err != nil {
				return err
			}
			u.params[i].value = strings.TrimPrefix(torrent.Magnet{Hash: m.Hash}.String(), "magnet:?xt=")
		}
	}
	return nil
}

// Magnet returns the magnet link of the torrent that one of the URLs names, ""
// if none does.
func Magnet(urls []URL) string {
	for _, u := range urls {
		if m, err := exact(u.param("xt")); err == nil {
			m.Name = u.param("dn")
			m.Trackers, m.WebSeeds, m.Sources, m.Peers = u.Params("tr"), u.Params("ws"), u.Params("xs"), u.Params("x.pe")
			return m.String()
		}
	}
	return ""
}

// openTorrent starts a peer of this process.
func openTorrent(_ context.Context, s *Set, u URL, uses use) error {
	o := torrentOptions(u, uses)
	o.UserAgent, o.Limit, o.Log = s.o.UserAgent, s.o.Limiter, s.o.Log
	if s.o.State != "" {
		o.Dir = filepath.Join(s.o.State, "bittorrent")
		if err := durable.MkdirAll(o.Dir, 0o700); err != nil {
			return err
		}
	}
	c, err := bittorrent.New(o)
	if err != nil {
		return err
	}
	s.onClose(c.Close)
	if uses.has(useFrom) {
		s.source(u, c, fetch.Network{Start: 3 * time.Second, Batch: 64})
	}
	if uses.has(useTo | useServe) {
		s.sink(u, share.Sink{Net: share.Plain(c)})
		s.listeners = append(s.listeners, Listener{Name: u.name(), URL: u, Addr: c.Addr()})
	}
	return nil
}

// torrentOptions returns what u says, with defaults. Who names trackers or peers, or
// local discovery, and nothing of the DHT, does not want to be known there. With
// local discovery it listens in any case: who hears of it, connects.
func torrentOptions(u URL, uses use) bittorrent.Options {
	o := bittorrent.Options{
		Listen: u.param("listen"), Trackers: u.Params("tr"), Peers: u.Params("x.pe"), Bootstrap: u.Params("bootstrap"),
		LSD: u.param("lsd") == "on",
	}
	switch u.param("dht") {
	case "on":
		o.DHT = true
	case "":
		o.DHT = len(o.Bootstrap) > 0 || len(o.Trackers)+len(o.Peers)+len(u.Params("ws")) == 0 && !o.LSD
	}
	switch {
	case o.Listen != "":
	case uses.has(useServe):
		o.Listen = ":6881"
	case uses.has(useTo) || o.LSD:
		o.Listen = ":0"
	}
	return o
}
