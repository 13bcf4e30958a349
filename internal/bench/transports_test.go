package bench

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseTransport(t *testing.T) {
	out := strings.Join([]string{
		"goos: linux", "some program says BenchmarkTransport/",
		"BenchmarkTransport/ersatz/coap+tcp,_4_in_flight-2         \t       1\t      5483 blocks/s\t 163074048 bytes-more\t        78.13 cpu-µs/block\t         0.1566 ms/one",
		"BenchmarkTransport/bare/RPC-16 \t 1\t 2199 blocks/s",
		"PASS",
	}, "\n")
	got, err := parseTransport([]byte(out))
	want := []transportRun{
		{"ersatz/coap+tcp, 4 in flight", sample{"blocks/s": 5483, "bytes-more": 163074048, "cpu-µs/block": 78.13, "ms/one": 0.1566}},
		{"bare/RPC", sample{"blocks/s": 2199}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parseTransport([]byte("BenchmarkTransport/ersatz/x-2\t1\tmany blocks/s")); err == nil {
		t.Error("a word is read as a number")
	}
}

func TestTransportRow(t *testing.T) {
	ours := []sample{{"blocks/s": 1000, "ms/one": 2, "cpu-µs/block": 50, "bytes-more": 1 << 20}}
	bare := []sample{{"blocks/s": 500, "ms/one": 4, "cpu-µs/block": 100, "bytes-more": 2 << 20}}
	got := transportRow("coap", "TCP", ours, bare)
	want := []string{"coap, TCP", "1000 /s", "500 /s", "2.00×", "32.8", "2.00 ms", "4.00 ms", "50.0 µs", "100 µs", "1.00 MiB", "2.00 MiB"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if alone := transportRow("coap", "DTLS", ours, nil); alone[2] != "–" || alone[3] != "–" {
		t.Errorf("without a bare loop: %q", alone)
	}
}
