package bench

import (
	"math"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		s    series
		want float64
	}{
		{series{3, 1, 2}, 2},
		{series{4, 1, 3, 2}, 2.5},
		{series{7}, 7},
	} {
		before := append(series(nil), c.s...)
		if got := c.s.median(); got != c.want {
			t.Errorf("median of %v is %v, not %v", c.s, got, c.want)
		}
		for i := range before {
			if c.s[i] != before[i] {
				t.Errorf("median has changed %v to %v", before, c.s)
			}
		}
	}
	if got := (series{}).median(); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v", got)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0.1234: "0.12", 1.006: "1.01", 12.34: "12.3", 123.4: "123", 1234.5: "1234", 12345: "12350", math.NaN(): "–",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, not %q", v, got, want)
		}
	}
}

// TestAhead: whatever the unit, more than 1 is good for ours.
func TestAhead(t *testing.T) {
	for _, c := range []struct {
		u           unit
		ours, other series
		want        string
	}{
		{seconds, series{1, 2, 3}, series{4}, "2.00×"},
		{perSecond, series{100}, series{50}, "2.00×"},
		{perSecond, series{50}, series{100}, "0.50×"},
		{mebibytes, series{2}, series{1}, "0.50×"},
		{seconds, series{1}, nil, "–"},
		{seconds, series{0}, series{1}, "–"},
	} {
		if got := c.u.ahead(c.ours, c.other); got != c.want {
			t.Errorf("%s: %v beside %v is %s, not %s", c.u.name, c.ours, c.other, got, c.want)
		}
	}
}

func TestCell(t *testing.T) {
	for _, c := range []struct {
		u    unit
		s    series
		want string
	}{
		{seconds, series{1, 3, 2}, "2.00 s [1.00, 3.00]"},
		{mebibytes, series{64 << 20}, "64.0 MiB"},
		{megabytes, series{2.5e8}, "250 MB/s"},
		{seconds, nil, "–"},
	} {
		if got := c.u.cell(c.s); got != c.want {
			t.Errorf("cell of %v is %q, not %q", c.s, got, c.want)
		}
	}
}

func TestMarkdown(t *testing.T) {
	table := Table{Title: "Title", Note: "Note.", Head: compareHead}
	table.compare("what", seconds, series{1}, series{3})
	want := `## Title

Note.

| what | ersatz | stock Guix | ersatz ahead |
| --- | --- | --- | --- |
| what | 1.00 s | 3.00 s | 3.00× |
`
	if got := table.Markdown(); got != want {
		t.Errorf("got\n%s\nnot\n%s", got, want)
	}
}

// TestVersus: columns of what was not measured are not there, figures that are
// missing are.
func TestVersus(t *testing.T) {
	table := Table{Title: "Title", Peer: "go-nix", Limit: "system calls"}
	table.versus("wall", seconds, series{2}, series{3}, series{1})
	table.versus("rate", megabytes, series{3e6}, nil, series{4e6})
	want := `## Title

| what | ersatz | go-nix | ersatz ahead | system calls | of the limit |
| --- | --- | --- | --- | --- | --- |
| wall | 2.00 s | 3.00 s | 1.50× | 1.00 s | 50.0 % |
| rate | 3.00 MB/s | – | – | 4.00 MB/s | 75.0 % |
`
	if got := table.Markdown(); got != want {
		t.Errorf("got\n%s\nnot\n%s", got, want)
	}
	alone := Table{Title: "Alone"}
	alone.versus("wall", seconds, series{2}, series{3}, series{1})
	if got := alone.Markdown(); got != "## Alone\n\n| what | ersatz |\n| --- | --- |\n| wall | 2.00 s |\n" {
		t.Errorf("%s", got)
	}
	if got := seconds.ofLimit(series{1}, nil); got != "–" {
		t.Errorf("of no limit: %s", got)
	}
}

func TestParseWrk(t *testing.T) {
	const good = `Running 3s test @ http://127.0.0.1:8080
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   132.01us   57.57us   1.05ms   71.93%
  182331 requests in 3.10s, 98.22MB read
Requests/sec:  58816.57
Transfer/sec:     31.68MB
`
	if got, n, err := parseWrk(good); err != nil || got != 58816.57 || n != 182331 {
		t.Errorf("%v, %v, %v", got, n, err)
	}
	for what, out := range map[string]string{
		"refused answers": strings.Replace(good, "Requests/sec", "  Non-2xx or 3xx responses: 17\nRequests/sec", 1),
		"broken pipes":    strings.Replace(good, "Requests/sec", "  Socket errors: connect 0, read 5, write 0, timeout 0\nRequests/sec", 1),
		"nothing":         "",
	} {
		if rate, _, err := parseWrk(out); err == nil {
			t.Errorf("%s: %v requests per second", what, rate)
		}
	}
}

func TestEndOfInfo(t *testing.T) {
	reply := strings.Repeat("/gnu/store/x\n\n0\n374\n3328\n", 3) + "\n"
	end := endOfInfo(3)
	lines := strings.Split(strings.TrimSuffix(reply, "\n"), "\n")
	for i, line := range lines {
		if got, want := end(line), i == len(lines)-1; got != want {
			t.Fatalf("line %d of %d, %q: last is %v", i, len(lines), line, got)
		}
	}
}
