package bittorrent_test

import (
	"flag"
	"os"
	"testing"
)

// TestMain has more tests run at a time than there are processors: they wait for
// peers most of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "6")
	os.Exit(m.Run())
}
