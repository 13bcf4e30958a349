package bench

import (
	"reflect"
	"testing"
)

// TestRecall: ratios are found by table, row and column, whatever else has
// changed.
func TestRecall(t *testing.T) {
	first := Table{Title: "Sizes, 100 MiB", Note: "A | note.", Peer: "peer", Limit: "limit"}
	first.versus("a", megabytes, series{2e6}, series{1e6}, series{4e6})
	first.versus("b", megabytes, series{2e6}, nil, nil)
	second := Table{Title: "Times", Peer: "peer"}
	second.versus("a", seconds, series{1}, series{7}, nil)
	section := first.Markdown() + "\n" + second.Markdown()

	now := Table{Title: "Sizes, 8 MiB", Peer: "peer", Limit: "limit"}
	now.versus("a", megabytes, series{3e6}, series{1e6}, series{4e6})
	now.versus("b", megabytes, series{3e6}, series{1e6}, series{4e6})
	now.versus("c", megabytes, series{3e6}, series{1e6}, series{4e6})
	now.recall(section, 0)
	want := [][]string{
		{"a", "3.00 MB/s", "1.00 MB/s", "3.00× (was 2.00×)", "4.00 MB/s", "75.0 % (was 50.0 %)"},
		{"b", "3.00 MB/s", "1.00 MB/s", "3.00×", "4.00 MB/s", "75.0 %"},
		{"c", "3.00 MB/s", "1.00 MB/s", "3.00×", "4.00 MB/s", "75.0 %"},
	}
	if !reflect.DeepEqual(now.Rows, want) {
		t.Errorf("%q", now.Rows)
	}
	later := Table{Peer: "peer"}
	later.versus("a", seconds, series{1}, series{8}, nil)
	for nth, want := range []string{"8.00× (was 2.00×)", "8.00× (was 2.00×) (was 7.00×)", "8.00× (was 2.00×) (was 7.00×)"} {
		later.recall(section, nth)
		if got := later.Rows[0][3]; got != want {
			t.Errorf("of table %d: %q, not %q", nth, got, want)
		}
	}
	later.recall("", 0)
	later.recall("no table\n| what | ersatz ahead |\n", 0)
}
