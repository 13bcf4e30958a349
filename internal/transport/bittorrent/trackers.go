package bittorrent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	bt "github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/tracker"

	"ersatz/internal/torrent"
)

const (
	// trackersAtOnce is how many trackers are asked at a time.
	trackersAtOnce = 16

	// trackerTime bounds an announcement, and goodbye the one of the end.
	trackerTime = 15 * time.Second
	goodbye     = 5 * time.Second

	// Pauses between announcements of a torrent to a tracker, which names one.
	leastPause = time.Minute
	mostPause  = time.Hour

	// Peers that a tracker is asked for.
	peersToFetch = 200
	peersToSeed  = 50
)

// announce has trackers told of a torrent, and asked for peers, until ctx ends.
// The library would end the program at an answer that is not as it expects
// (v1.60.0, tracker/http.Peer.FromDictInterface), and unpack what it is sent
// without a bound.
func (c *Client) announce(ctx context.Context, t *bt.Torrent, m torrent.Magnet, fetched bool) {
	urls := slices.Concat(m.Trackers, c.o.Trackers)
	slices.Sort(urls)
	for _, url := range slices.Compact(urls) {
		c.spawn(func() { c.runTracker(ctx, t, url, fetched) })
	}
}

// runTracker asks one tracker, at first at once.
func (c *Client) runTracker(ctx context.Context, t *bt.Torrent, url string, fetched bool) {
	event := tracker.Started
	pause := leastPause
	knows := false // it may know of us
	for {
		interval, err := c.askTracker(ctx, t, url, event, fetched)
		knows = knows || err == nil || ctx.Err() != nil
		switch {
		case ctx.Err() != nil:
		case err != nil:
			c.log.DebugContext(ctx, "tracker failed", slog.String("tracker", hostOf(url)), slog.Any("error", err))
			pause = min(2*pause, mostPause)
		default:
			event, pause = tracker.None, min(max(interval, leastPause), mostPause)
			if fetched && len(t.PeerConns()) == 0 {
				pause = leastPause
			}
		}
		select {
		case <-time.After(pause):
			continue
		case <-ctx.Done():
		}
		if knows {
			last, cancel := context.WithTimeout(c.ctx, goodbye)
			defer cancel()
			c.askTracker(last, t, url, tracker.Stopped, fetched) // it forgets in any case
		}
		return
	}
}

// askTracker announces a torrent once, and takes the peers that the tracker
// knows. It returns how long the tracker wants to be left alone.
func (c *Client) askTracker(ctx context.Context, t *bt.Torrent, url string, event tracker.AnnounceEvent, fetched bool) (interval time.Duration, err error) {
	select {
	case c.trackers <- struct{}{}:
		defer func() { <-c.trackers }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, trackerTime)
	defer cancel()
	defer func() {
		if r := recover(); r != nil { // of the library's parser
			err = fmt.Errorf("answer is malformed: %v", r)
		}
	}()
	res, err := tracker.Announce{
		TrackerUrl: url,
		Request:    c.announcement(t, event, fetched),
		Context:    ctx,
		UserAgent:  c.o.UserAgent,
		HttpProxy:  http.ProxyFromEnvironment,
		HttpRequestDirector: func(r *http.Request) error {
			r.Header.Set("Accept-Encoding", "identity") // nothing grows when it is read
			return nil
		},
		DialContext: dialTracker,
		UdpNetwork:  "udp",
	}.Do()
	if err != nil {
		return 0, unnamed(err)
	}
	for _, p := range res.Peers {
		found(t, p.IP, p.Port, bt.PeerSourceTracker)
	}
	return time.Duration(res.Interval) * time.Second, nil
}

func (c *Client) announcement(t *bt.Torrent, event tracker.AnnounceEvent, fetched bool) tracker.AnnounceRequest {
	r := tracker.AnnounceRequest{InfoHash: t.InfoHash(), PeerId: c.bt.PeerID(), Event: event, NumWant: peersToSeed}
	if c.listen != nil {
		r.Port = uint16(c.listen.Addr().(*net.TCPAddr).Port)
	}
	if fetched {
		r.NumWant, r.Left = peersToFetch, 1 // not all, as far as is known
		if t.Info() != nil {
			r.Left = t.BytesMissing()
		}
	}
	return r
}

// found has the library connect to a peer that others have told of, if that is an
// address.
func found(t *bt.Torrent, ip net.IP, port int, source bt.PeerSource) {
	if addr, ok := netip.AddrFromSlice(ip); ok && port > 0 && port < 1<<16 {
		at := net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr.Unmap(), uint16(port)))
		t.AddPeers([]bt.PeerInfo{{Addr: at, Source: source}})
	}
}

// hostOf returns the host of a URL, whose path may have a key.
func hostOf(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Host
}

// unnamed is an error without the URL that was asked.
func unnamed(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}
