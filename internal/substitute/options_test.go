package substitute

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParseOptions(t *testing.T) {
	// As captured from guix-daemon 1.5.0.
	o := ParseOptions("build-fallback=false\nbuild-use-substitutes=true\ndiscover=false\nlocale=\n" +
		"multiplexed-build-output=true\nprint-extended-build-trace=1\nsubstitute-urls=http://127.0.0.1:8181\n" +
		"terminal-columns=80\nuser-name=root\ndeduplicate=yes")
	if !slices.Equal(o.Servers, []string{"http://127.0.0.1:8181"}) || o.Discover || !o.Trace || !o.Deduplicate {
		t.Errorf("options are %+v", o)
	}
	// A client that is not trusted.
	o = ParseOptions("substitute-urls=http://a  http://b\nuntrusted-substitute-urls=http://c http://d http://c\n" +
		"print-extended-build-trace=0\nuntrusted-print-extended-build-trace=1\ndiscover=true\nuntrusted-deduplicate=yes\n")
	if !slices.Equal(o.Servers, []string{"http://c", "http://d"}) || !o.Discover || !o.Trace || o.Deduplicate {
		t.Errorf("options are %+v", o)
	}
	// A client that wants none.
	if o = ParseOptions("substitute-urls=http://a\nuntrusted-substitute-urls=\n"); len(o.Servers) != 0 {
		t.Errorf("servers are %q", o.Servers)
	}
	var urls []string
	for i := range 100 {
		urls = append(urls, fmt.Sprintf("http://s%d", i))
	}
	if o = ParseOptions("substitute-urls=" + strings.Join(urls, " ")); len(o.Servers) != maxServers {
		t.Errorf("%d servers", len(o.Servers))
	}
}
