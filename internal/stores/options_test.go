package stores

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"ersatz/eris"
	"ersatz/internal/block"
)

func one(t *testing.T, url string) URL {
	t.Helper()
	return mustParse(t, url)[0]
}

// TestTorrentOptions has who joins the DHT, and where it listens.
func TestTorrentOptions(t *testing.T) {
	for _, c := range []struct {
		url    string
		uses   use
		listen string
		dht    bool
	}{
		{"bittorrent:", useFrom, "", true},
		{"bittorrent:", useTo, ":0", true},
		{"bittorrent:", useFrom | useServe, ":6881", true},
		{"bittorrent:?listen=127.0.0.1:1", useServe, "127.0.0.1:1", true},
		{"bittorrent:?tr=http://h/a", useServe, ":6881", false},
		{"bittorrent:?x.pe=h:1&listen=[::1]:2", useFrom, "[::1]:2", false},
		{"bittorrent:?tr=http://h/a&dht=on", useFrom, "", true},
		{"bittorrent:?tr=http://h/a&bootstrap=h:1", useFrom, "", true},
		{"bittorrent:?bootstrap=h:1&dht=off", useFrom, "", false},
		{"bittorrent:?lsd=on", useFrom, ":0", false},
		{"bittorrent:?lsd=on&dht=on", useFrom | useServe, ":6881", true},
		{"bittorrent:?lsd=on&listen=[::1]:2", useTo, "[::1]:2", false},
		{"bittorrent:?lsd=off", useFrom, "", true},
	} {
		o := torrentOptions(one(t, c.url), c.uses)
		if o.LSD != strings.Contains(c.url, "lsd=on") {
			t.Errorf("%s: local discovery %v", c.url, o.LSD)
		}
		if o.Listen != c.listen || o.DHT != c.dht {
			t.Errorf("%s, use %d: listens at %q, DHT %v", c.url, c.uses, o.Listen, o.DHT)
		}
	}
	o := torrentOptions(one(t, "bittorrent:?tr=http://h/a&tr=udp://h:1&x.pe=h:2&bootstrap=h:3"), useFrom)
	if !slices.Equal(o.Trackers, []string{"http://h/a", "udp://h:1"}) || !slices.Equal(o.Peers, []string{"h:2"}) || !slices.Equal(o.Bootstrap, []string{"h:3"}) {
		t.Errorf("options are %+v", o)
	}
}

// blocks is a library that knows one block, and perhaps batches.
type blocks struct {
	block.Getter
	ref eris.Ref
}

func (b blocks) Get(_ context.Context, ref eris.Ref) ([]byte, error) {
	if ref != b.ref {
		return nil, eris.ErrNotFound
	}
	return make([]byte, 1<<10), nil
}

type batches struct {
	blocks
	asked int
}

func (b *batches) Batch(ctx context.Context, refs []eris.Ref, emit func(int, []byte) error) error {
	b.asked++
	for i, ref := range refs {
		data, _ := b.Get(ctx, ref) // nil if it is not there
		if err := emit(i, data); err != nil {
			return err
		}
	}
	return nil
}

var errLimit = errors.New("limit")

type broke struct{}

func (broke) WaitN(context.Context, int) error { return errLimit }

// TestServed wants batches to be asked for as such where they can be, and the
// Limiter to be asked all the same.
func TestServed(t *testing.T) {
	there, all := blocks{ref: eris.Ref{1}}, &batches{blocks: blocks{ref: eris.Ref{1}}}
	for name, lib := range map[string]block.Getter{"one by one": there, "batches": all} {
		t.Run(name, func(t *testing.T) {
			limit := &tally{}
			var sizes []int
			emit := func(i int, b []byte) error {
				if i != len(sizes) {
					t.Errorf("block %d comes after %d others", i, len(sizes))
				}
				sizes = append(sizes, len(b))
				return nil
			}
			refs := []eris.Ref{{1}, {2}, {1}}
			if err := (served{lib, limit}).Batch(t.Context(), refs, emit); err != nil || !slices.Equal(sizes, []int{1024, 0, 1024}) {
				t.Errorf("blocks of %d bytes, %v", sizes, err)
			}
			if n := limit.n.Load(); n != 2048 {
				t.Errorf("the limiter was told of %d bytes", n)
			}
			sizes = nil
			if err := (served{lib, broke{}}).Batch(t.Context(), refs, emit); !errors.Is(err, errLimit) || len(sizes) > 0 {
				t.Errorf("beyond the limit: %d blocks, %v", len(sizes), err)
			}
			if _, err := (served{lib, broke{}}).Get(t.Context(), eris.Ref{1}); !errors.Is(err, errLimit) {
				t.Errorf("beyond the limit: %v", err)
			}
			if _, err := (served{lib, nil}).Get(t.Context(), eris.Ref{2}); !errors.Is(err, eris.ErrNotFound) {
				t.Errorf("what is not there: %v", err)
			}
		})
	}
	if all.asked != 2 {
		t.Errorf("%d batches", all.asked)
	}
}

// TestAddress has the ports that a URL without one listens at.
func TestAddress(t *testing.T) {
	for url, want := range map[string]string{
		"coap://localhost": "localhost:5683", "coap://[::]": "[::]:5683", "coap://[::1]:7": "[::1]:7", "coap://0.0.0.0:0": "0.0.0.0:0",
		"coap://[fe80::1%25lo]": "[fe80::1%lo]:5683",
	} {
		if got := one(t, url).address("5683"); got != want {
			t.Errorf("%s is %s, want %s", url, got, want)
		}
	}
}

func TestServers(t *testing.T) {
	urls := mustParse(t, "http://h:1/p?get&put", "coap://h", "ipfs+http://h:5001", "https://me:pw@h?get")
	if got := Servers(urls); !slices.Equal(got, []string{"http://h:1/p", "https://me:pw@h"}) {
		t.Errorf("servers are %q", got)
	}
}

// TestRefused has what only those who open a URL find out.
func TestRefused(t *testing.T) {
	for _, url := range []string{"ndn:?prefix=eris", "ndn:?face=http://h", "gnunet:?replication=99", "gateway+http://h?manifest=x", "gnunet:///s?expiry=1m&replication=17"} {
		if _, err := Open(t.Context(), Plan{From: mustParse(t, url)}, Options{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", url, err)
		}
	}
	// What cannot be listened at is no fault of the URL.
	for _, url := range []string{"bittorrent:?listen=192.0.2.1:1&dht=off", "http://192.0.2.1:1", "coap://192.0.2.1:1",
		"coap+tcp://192.0.2.1:1"} {
		s, err := Open(t.Context(), Plan{Serve: mustParse(t, url)}, Options{Library: newLibrary(t)})
		if err == nil || errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), url) {
			t.Errorf("%s: %v, %v", url, s, err)
		}
	}
}
