package substitute

import (
	"slices"
	"strings"
	"testing"
)

// String prints the request as parseRequest reads it.
func (r request) String() string { return strings.Join(append([]string{r.verb}, r.paths...), " ") }

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"info /gnu/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-ersatz-small-1.0 ",
		"have /gnu/store/a /gnu/store/b", "have", "info", "",
		"substitute /gnu/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-x /gnu/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-x",
		"substitute a b", "substitute a /b c", "substitute a /b/..", "substitute a /", "info\x00", "x y", " have  a\tb ",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		r, err := parseRequest(line)
		if err != nil {
			return
		}
		again, err := parseRequest(r.String())
		if err != nil || again.verb != r.verb || !slices.Equal(again.paths, r.paths) {
			t.Fatalf("%q is printed as %q, which is read as %q (%v)", line, r, again, err)
		}
		if r.verb == "substitute" && !strings.HasPrefix(r.paths[1], "/") {
			t.Fatalf("relative destination %q", r.paths[1])
		}
	})
}

func FuzzOptions(f *testing.F) {
	for _, s := range []string{
		"", "substitute-urls=http://a http://b\nuntrusted-substitute-urls=http://c\ndiscover=true\ndeduplicate=yes",
		"print-extended-build-trace=1\n", "untrusted-print-extended-build-trace=0\nprint-extended-build-trace=1\n",
		"substitute-urls=\n", "=\n", "a", "substitute-urls=http://a\nsubstitute-urls=http://b\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o := ParseOptions(text)
		if len(o.Servers) > maxServers {
			t.Fatalf("%d servers", len(o.Servers))
		}
		var b strings.Builder
		b.WriteString("substitute-urls=" + strings.Join(o.Servers, " ") + "\n")
		for name, on := range map[string]bool{"discover=true": o.Discover, "deduplicate=yes": o.Deduplicate, "print-extended-build-trace=1": o.Trace} {
			if on {
				b.WriteString(name + "\n")
			}
		}
		again := ParseOptions(b.String())
		if !slices.Equal(again.Servers, o.Servers) || again.Discover != o.Discover || again.Deduplicate != o.Deduplicate || again.Trace != o.Trace {
			t.Fatalf("%q is printed as %q, which is read as %+v", text, b.String(), again)
		}
	})
}

func FuzzDiscovered(f *testing.F) {
	for _, s := range []string{
		"", "http://192.168.1.2:8080\nhttp://192.168.1.3:8181\n", "http://[fe80::1]:80\n", "file:///etc\n",
		"http://a\nhttp://a\n", "https://a\n", "http://a/?x\n", "http://a/ \n", " http://a\r\n", "http://:80:80\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		urls := parseDiscovered(text)
		for _, u := range urls {
			if !strings.HasPrefix(u, "http://") || strings.ContainsAny(u, "\n ") {
				t.Fatalf("%q is taken for a server", u)
			}
		}
		if once := slices.Compact(slices.Sorted(slices.Values(urls))); len(once) != len(urls) {
			t.Fatalf("%q names a server twice", urls)
		}
		if again := parseDiscovered(strings.Join(urls, "\n")); !slices.Equal(again, urls) {
			t.Fatalf("%q is read as %q, then as %q", text, urls, again)
		}
	})
}
