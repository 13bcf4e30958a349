package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"ersatz/internal/bake"
	"ersatz/internal/keep"
)

// RegisterBakes has each reading of the metrics ask once for what was baked.
func RegisterBakes(r prometheus.Registerer, status func() bake.Status) {
	var (
		queued  = desc("bakes_queued", "Items that wait to be baked.")
		working = desc("bakes_running", "Items that are being baked.")
		ended   = desc("bakes_total", "Items baked, and attempts that failed.", "outcome")
		seconds = desc("bake_seconds_total", "Time that the baked items took together.")
		cpu     = desc("bake_cpu_seconds_total", "Processor time of the processes that bake, which process_cpu_seconds_total does not have.")
		put     = desc("ipfs_items_total", "Items put into IPFS.")
		expired = desc("expired_items_total", "Items removed from the cache because nobody asked for them.")
	)
	r.MustRegister(reading{[]*prometheus.Desc{queued, working, ended, seconds, cpu, put, expired}, func(s samples) {
		b := status()
		s.gauge(queued, float64(b.Queued))
		s.gauge(working, float64(b.Working))
		s.counter(ended, float64(b.Baked), string(Done))
		s.counter(ended, float64(b.Failed), string(Failed))
		s.counter(seconds, b.Took.Seconds())
		s.counter(cpu, b.CPU.Seconds())
		s.counter(put, float64(b.Put))
		s.counter(expired, float64(b.Expired))
	}})
}

// RegisterKept has each reading of the metrics ask once for what is kept.
func RegisterKept(r prometheus.Registerer, usage func() keep.Usage) {
	var (
		count = desc("kept_items", "Whole items, and parts of items, that are kept.", "what")
		bytes = desc("kept_bytes", "Disk that is taken, by what takes it.", "what")
		quota = desc("kept_quota_bytes", "Disk that may be taken.")
	)
	r.MustRegister(reading{[]*prometheus.Desc{count, bytes, quota}, func(s samples) {
		u := usage()
		s.gauge(count, float64(u.Items), "items")
		s.gauge(count, float64(u.Parts), "parts")
		s.gauge(bytes, float64(u.ItemBytes), "items")
		s.gauge(bytes, float64(u.PartBytes), "parts")
		s.gauge(bytes, float64(u.IndexBytes), "index")
		s.gauge(quota, float64(u.Quota))
	}})
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

// reading is a Collector whose samples are of one moment.
type reading struct {
	descs []*prometheus.Desc
	read  func(samples)
}

// Describe implements prometheus.Collector.
func (r reading) Describe(to chan<- *prometheus.Desc) {
	for _, d := range r.descs {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (r reading) Collect(to chan<- prometheus.Metric) { r.read(to) }

// samples takes what a reading has found.
type samples chan<- prometheus.Metric

func (s samples) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s samples) counter(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}
