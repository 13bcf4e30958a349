package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// parseTTL reads a duration as Guix does (guix/ui.scm, string->duration): a
// number and s, h, d, w, m or y, where m is a month of 30 days.
func parseTTL(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	units := map[string]time.Duration{
		"s": time.Second, "h": time.Hour, "d": day, "w": 7 * day, "m": 30 * day, "y": 365 * day,
	}
	number, unit := cutNumber(s)
	scale, ok := units[unit]
	n, err := strconv.ParseUint(number, 10, 63)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is no duration: a number and s, h, d, w, m (30 days) or y", s)
	}
	if n > uint64(math.MaxInt64/scale) {
		return 0, fmt.Errorf("%q is more than 292 years", s)
	}
	return time.Duration(n) * scale, nil
}

// parseSize reads a number of bytes as Guix does (guix/ui.scm, size->number):
// K and KiB are 1024, kB and KB 1000, and so on to E.
func parseSize(s string) (int64, error) {
	number, unit := cutNumber(s)
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.ContainsAny(number, "eExXpPiInN_+-") {
		return 0, fmt.Errorf("%q is no size: a number and, for example, M, MiB or MB", s)
	}
	power, base := 0, 1024.0
	if unit != "" {
		power = 1 + strings.IndexByte("KMGTPE", strings.ToUpper(unit[:1])[0])
		switch rest := unit[1:]; {
		case power == 0, unit[0] == 'k' && rest == "iB", unit[0] != 'k' && unit[0] >= 'a':
			return 0, fmt.Errorf("%q has an unknown unit %q", s, unit)
		case rest == "B":
			base = 1000
		case rest != "" && rest != "iB":
			return 0, fmt.Errorf("%q has an unknown unit %q", s, unit)
		}
	}
	n = math.Round(n * math.Pow(base, float64(power)))
	if n >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return int64(n), nil
}

// cutNumber splits behind the last digit or dot.
func cutNumber(s string) (number, unit string) {
	i := strings.LastIndexAny(s, "0123456789.") + 1
	return s[:i], s[i:]
}
