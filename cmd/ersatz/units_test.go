package main

import (
	"testing"
	"time"
)

func TestParseTTL(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"0s": 0, "90s": 90 * time.Second, "36h": 36 * time.Hour, "30d": 30 * day, "2w": 14 * day,
		"3m": 7776000 * time.Second, // months, as the transcripts show
		"1y": 365 * day,
	} {
		if got, err := parseTTL(text); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "5", "d", "-1d", "+1d", "1.5d", "1 d", "1D", "5min", "1d1h", "99999999999999999999d", "300y", "1_0d"} {
		if got, err := parseTTL(text); err == nil {
			t.Errorf("%q is %s", text, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1024": 1024, "10M": 10 << 20, "10MiB": 10 << 20, "10MB": 10e6, "1k": 1 << 10, "1K": 1 << 10, "1KiB": 1 << 10,
		"1kB": 1000, "1.5G": 3 << 29, "2TB": 2e12, "1P": 1 << 50, ".5K": 512,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1", "+1", "1e3", "0x10", "NaN", "Inf", "1m", "1mib", "1kiB", "1B", "1X", "1Mib", "1MM", "8E", "99999E", "1 M", "1.2.3K", "1_000"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

// FuzzUnits wants no panic, and nothing below zero, of what an operator types.
func FuzzUnits(f *testing.F) {
	for _, s := range []string{"", "3m", "30d", "10M", "10MiB", "1.5GB", "9223372036854775807E", "-1", "1e9", "٣d", "0x10", ".", "1..2k"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := parseTTL(s); err == nil && d < 0 {
			t.Errorf("%q is %v", s, d)
		}
		if n, err := parseSize(s); err == nil && n < 0 {
			t.Errorf("%q is %d", s, n)
		}
	})
}
