package netlab

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// TestCarry checks that frames come in order, each exactly the delay later,
// however close together they were sent, and that those on their way when an
// end is closed are lost.
func TestCarry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const delay = 40 * time.Millisecond
		in, from := io.Pipe()
		to, out := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer out.Close()
			carry(in, out, delay)
		}()
		go func() {
			for n := range 4 {
				if _, err := from.Write([]byte{byte(n)}); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Duration(n) * 10 * time.Millisecond) // at 0, 0, 10 and 30 ms
			}
			time.Sleep(30 * time.Millisecond) // the last but one has landed
			from.Close()
		}()
		begin := time.Now()
		buf := make([]byte, maxFrame)
		for n, want := range []time.Duration{0, 0, 10 * time.Millisecond, 30 * time.Millisecond} {
			got, err := to.Read(buf)
			if err != nil || got != 1 || buf[0] != byte(n) || time.Since(begin) != want+delay {
				t.Errorf("frame %d: %d bytes, first %d, after %v, %v", n, got, buf[0], time.Since(begin), err)
			}
		}
		<-done
		if _, err := to.Read(buf); err == nil {
			t.Error("more than was sent")
		}
	})
}

// TestCarryEnds checks that a wire whose end is closed is not waited for.
func TestCarryEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, from := io.Pipe()
		begin := time.Now()
		done := make(chan struct{})
		go func() { defer close(done); carry(in, io.Discard, time.Hour) }()
		if _, err := from.Write([]byte{1}); err != nil {
			t.Error(err)
		}
		from.Close()
		<-done
		if time.Since(begin) != 0 {
			t.Errorf("ended after %v", time.Since(begin))
		}
	})
}

func TestParseTraffic(t *testing.T) {
	const head = "Inter-|   Receive  |  Transmit\n face |bytes packets\n"
	const lo = "    lo:       1       0    0    0    0     0          0         0       2       0    0    0    0     0       0          0\n"
	const eth = "  eth0: 1234       5    0    0    0     0          0         0   567890      9    0    0    0     0       0          0\n"
	if got, err := parseTraffic(head + lo + eth); err != nil || got != (Traffic{Sent: 567890, Received: 1234}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"", head + lo, head + "eth0: 1 2\n", head + "  eth0: x       5    0    0    0     0          0         0   567890      9    0    0    0     0       0          0\n"} {
		if _, err := parseTraffic(text); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}
