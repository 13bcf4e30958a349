package bench

import (
	"strings"
	"testing"
)

// TestSiteStarts wants figures of both programs.
func TestSiteStarts(t *testing.T) {
	s, ctx := testSite(t)
	tables, err := s.starts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		text := table.Markdown()
		if strings.Contains(text, "–") || strings.Count(text, "\n| ") < 4 {
			t.Errorf("figures are missing:\n%s", text)
		}
	}
}
