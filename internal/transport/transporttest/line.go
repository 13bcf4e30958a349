package transporttest

import (
	"errors"
	"testing"
	"time"

	"ersatz/eris"
)

// lineFaults are what a line can do to what a peer sends over a stream.
var lineFaults = map[string]fault{
	"cut at once":       {cut: true},
	"cut in a block":    {cut: true, after: 10_000},
	"reset in a block":  {reset: true, after: 10_000},
	"silent at once":    {stall: true},
	"silent in a block": {stall: true, after: 10_000},
	"bytes changed":     {flip: 20_000},
	"many changed":      {flip: 100},
}

// slowLines only take their time.
var slowLines = map[string]fault{
	"late":        {delay: 20 * time.Millisecond},
	"small steps": {piece: 700},
}

// lossyLines are what a line can do to datagrams that a transport must bear.
var lossyLines = map[string]fault{
	"some lost":     {lose: 0.05},
	"some doubled":  {twice: 0.2},
	"some too late": {late: 0.1},
	"all of these":  {lose: 0.02, twice: 0.1, late: 0.05},
}

// Faults runs the suite of faults: what is between a source and its peer cuts,
// resets, falls silent, changes bytes, is slow or loses datagrams. Whatever it
// does, no wrong block is taken, Fetch returns, and the same source goes on when
// the line is good again. Transport.Proxy is needed.
func Faults(t *testing.T, tr Transport) {
	network := ""
	blocks, refs := fill(t, eris.Size32KiB, 60)
	at, _ := tr.Serve(t, "", blocks, refs)
	line := func(t *testing.T) (*proxy, string) {
		p := &proxy{}
		return p, tr.Proxy(t, at, func(n, address string) string {
			network = n
			return p.start(t, n, address)
		})
	}
	line(t)
	broken, bearable := lineFaults, slowLines
	if network == "udp" {
		broken = map[string]fault{"silent": {stall: true}, "many changed": {flip: 2000}}
		bearable = lossyLines
	}
	for name, f := range broken {
		t.Run(name, func(t *testing.T) {
			p, via := line(t)
			p.set(f)
			source := tr.Dial(t, via, idle)
			// On a busy machine a source may give up before the fault strikes.
			for n, end := 0, time.Now().Add(soon); n < 2 || p.hits.Load() == 0 && time.Now().Before(end); n++ {
				got, err := fetch(t, t.Context(), source, eris.Size32KiB, refs)
				if err == nil && len(got) < len(refs) && !tr.SilenceIsMissing {
					t.Errorf("%d of %d blocks and no error", len(got), len(refs))
				}
			}
			p.struck(t)
			p.set(fault{})
			recovers(t, source, refs)
		})
	}
	for name, f := range bearable {
		t.Run(name, func(t *testing.T) {
			p, via := line(t)
			p.set(f)
			got, err := fetch(t, t.Context(), tr.Dial(t, via, patience), eris.Size32KiB, refs)
			wantAll(t, got, len(refs), err)
			p.struck(t)
		})
	}
	if network != "udp" {
		t.Run("cut again and again", func(t *testing.T) { testCutAgain(t, tr, line, refs) })
	}
}

// recovers fails the test unless a source whose line is good gives all soon.
func recovers(t *testing.T, source eris.Fetcher, refs []eris.Ref) {
	t.Helper()
	for end := time.Now().Add(soon); ; time.Sleep(20 * time.Millisecond) {
		got, err := fetch(t, t.Context(), source, eris.Size32KiB, refs)
		if err == nil && len(got) == len(refs) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("line is good: %d of %d blocks, %v", len(got), len(refs), err)
		}
	}
}

// testCutAgain has every connection end after some blocks: who asks for what is
// missing gets all in the end.
func testCutAgain(t *testing.T, tr Transport, line func(*testing.T) (*proxy, string), refs []eris.Ref) {
	p, via := line(t)
	p.set(fault{cut: true, after: 50_000})
	source := tr.Dial(t, via, patience)
	missing := refs
	for end := time.Now().Add(soon); len(missing) > 0; {
		got, err := fetch(t, t.Context(), source, eris.Size32KiB, missing)
		if errors.Is(err, eris.ErrCorrupt) {
			t.Fatalf("a cut line is taken for a liar: %v", err)
		}
		var left []eris.Ref
		for i, ref := range missing {
			if got[i] == 0 {
				left = append(left, ref)
			}
		}
		if missing = left; time.Now().After(end) {
			t.Fatalf("%d of %d blocks are missing, %v", len(missing), len(refs), err)
		}
	}
	p.struck(t)
}

// struck fails the test if nothing happened to what passed a proxy.
func (p *proxy) struck(t *testing.T) {
	t.Helper()
	if p.hits.Load() == 0 {
		t.Error("the fault did not strike")
	}
}
