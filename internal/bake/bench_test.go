package bake

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"ersatz/internal/compress"
)

// BenchmarkBake bakes b.N items, small ones of 0.4 to 20 KB or large ones, in this
// process or by others. It gives the processor time of this process and of those.
// TMPDIR says where store and cache are.
func BenchmarkBake(b *testing.B) {
	sizes := map[string]func(*rand.Rand) int{
		"small": func(r *rand.Rand) int { return 400 + r.IntN(20_000-400) },
		"large": func(*rand.Rand) int { return 64 << 20 },
	}
	for _, size := range []string{"small", "large"} {
		for _, level := range []int{3, 19} {
			if size == "large" && level == 19 {
				continue // libzstd and nothing else
			}
			for _, where := range []string{"server", "child"} {
				b.Run(fmt.Sprintf("%s/zstd:%d/%s", size, level, where), func(b *testing.B) {
					o := Options{Methods: []compress.Method{{Name: "zstd", Level: level}}}
					if where == "child" {
						o.Child = childCommand
					}
					benchmarkBake(b, o, sizes[size])
				})
			}
		}
	}
}

func benchmarkBake(b *testing.B, o Options, size func(*rand.Rand) int) {
	s := newSite(b)
	rng := rand.New(rand.NewPCG(1, 2))
	text := lines(64 << 20)
	for i := range b.N {
		n := size(rng)
		from := rng.IntN(len(text) - n + 1)
		s.add(fmt.Sprint("item", i), nil, text[from:from+n])
	}
	o.Queue = b.N
	c := s.open(o)
	defer s.close(c)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	before := usedBy(b, syscall.RUSAGE_SELF)
	kids := usedBy(b, syscall.RUSAGE_CHILDREN)
	b.ResetTimer()
	go func() { done <- c.Run(ctx) }()
	for _, p := range s.paths {
		if err := c.Bake(p); err != nil {
			b.Fatal(err)
		}
	}
	for c.Status().Baked < b.N {
		if c.Status().Failed > 0 {
			b.Fatal(s.log.String())
		}
		<-time.After(5 * time.Millisecond)
	}
	b.StopTimer()
	server := usedBy(b, syscall.RUSAGE_SELF) - before
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
	kids = usedBy(b, syscall.RUSAGE_CHILDREN) - kids
	b.ReportMetric(float64(server.Microseconds())/float64(b.N), "server-µs/op")
	b.ReportMetric(float64(kids.Microseconds())/float64(b.N), "children-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
}

// usedBy returns processor time, user and system.
func usedBy(b *testing.B, who int) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
