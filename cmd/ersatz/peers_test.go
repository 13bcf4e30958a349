package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"ersatz/internal/nodeapi"
)

func TestPrintPeers(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	list := []nodeapi.Peer{
		{Name: "http://nas:8181", URL: "http://nas:8181", Kind: nodeapi.KindNode, Named: true, Since: now.Add(-72 * time.Hour), Error: "failed, is asked again in 20s: no route"},
		{
			Name: "ersatz-abc", URL: "http://192.168.1.5:8181", Kind: nodeapi.KindNode, Near: true, Since: now.Add(-3 * time.Hour), Seen: now.Add(time.Second),
			LatencyMS: 1.23456, PerBlockMS: 0.0345, Blocks: 1234, Bytes: 40_000_000,
		},
		{Name: "guix-publish-x", URL: "http://10.0.0.1:8080", Kind: nodeapi.KindPublish, Since: now.Add(-5 * time.Minute), Seen: now.Add(-90 * time.Second)},
	}
	want := `PEER                     KIND     KNOWN  SEEN   LATENCY  PER BLOCK  BLOCKS  BYTES  NAME
http://nas:8181          node     3 d    never  -        -          0       0 B    (named by --peer)
http://192.168.1.5:8181  node     3 h    0 s    1.23 ms  0.0345 ms  1234    40 MB  ersatz-abc
http://10.0.0.1:8080     publish  5 min  90 s   -        -          0       0 B    guix-publish-x
http://nas:8181 is not asked: failed, is asked again in 20s: no route
`
	var b strings.Builder
	if err := printPeers(&b, list, now); err != nil || b.String() != want {
		t.Errorf("%v\n%s", err, b.String())
	}
	b.Reset()
	if err := printPeers(&b, nil, now); err != nil || !strings.HasPrefix(b.String(), "No peers: ") {
		t.Errorf("%v\n%s", err, b.String())
	}
	for _, list := range [][]nodeapi.Peer{nil, list} {
		if err := printPeers(brokenWriter{}, list, now); err == nil {
			t.Error("a full disk is not noticed")
		}
	}
}

// brokenWriter takes nothing.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, syscall.ENOSPC }
