package metrics

import (
	"io"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Face is the side of a server that answers a request.
type Face string

// The faces.
const (
	Web    Face = "web"    // publish, for everyone
	Local  Face = "local"  // a node, for this machine
	Shared Face = "shared" // a node, for other machines
	Socket Face = "socket" // a node's Unix socket
)

// Kind is what a request asks for.
type Kind string

// The kinds of requests.
const (
	Narinfo Kind = "narinfo"
	NarFile Kind = "nar"
	Block   Kind = "block" // one
	Batch   Kind = "batch" // of blocks
	Have    Kind = "have"  // which items are held
	Ahead   Kind = "ahead" // what may be asked for soon
	Other   Kind = "other"
)

// cut is the code of an answer that was broken off after it had begun.
const cut = "cut"

// Requests counts what HTTP servers answer. It is safe for concurrent use.
type Requests struct {
	total, bytes *prometheus.CounterVec
	running      *prometheus.GaugeVec
}

// NewRequests registers the counters of requests to the faces.
func NewRequests(r prometheus.Registerer, faces ...Face) *Requests {
	q := &Requests{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "http_requests_total",
			Help: "Requests answered, by face, kind and status; cut: broken off in the middle.",
		}, []string{"face", "kind", "code"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "http_sent_bytes_total", Help: "Bytes of bodies sent, by face and kind.",
		}, []string{"face", "kind"}),
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Name: "http_requests_running", Help: "Requests that are being answered, by face.",
		}, []string{"face"}),
	}
	for _, f := range faces {
		q.running.WithLabelValues(string(f))
		for _, k := range []Kind{Narinfo, NarFile, Block, Batch} {
			q.bytes.WithLabelValues(string(f), string(k))
		}
	}
	r.MustRegister(q.total, q.bytes, q.running)
	return q
}

// Serve has h answer a request, and counts it. What h panics with goes on.
func (q *Requests) Serve(w http.ResponseWriter, r *http.Request, f Face, k Kind, h http.HandlerFunc) {
	if q == nil {
		h(w, r)
		return
	}
	q.running.WithLabelValues(string(f)).Inc()
	m := &meter{ResponseWriter: w, sent: q.bytes.WithLabelValues(string(f), string(k))}
	whole := false
	defer func() {
		q.running.WithLabelValues(string(f)).Dec()
		q.total.WithLabelValues(string(f), string(k), m.code(whole)).Inc()
	}()
	h(m, r)
	whole = true
}

// Tally counts answers of one kind with one status.
type Tally struct{ total, bytes prometheus.Counter }

// Tally returns the counters of answers that do not come by way of Serve, since
// they were at hand.
func (q *Requests) Tally(f Face, k Kind, status int) *Tally {
	if q == nil {
		return nil
	}
	return &Tally{
		total: q.total.WithLabelValues(string(f), string(k), strconv.Itoa(status)),
		bytes: q.bytes.WithLabelValues(string(f), string(k)),
	}
}

// Add counts an answer, and how many bytes its body has.
func (t *Tally) Add(sent int) {
	if t != nil {
		t.total.Inc()
		t.bytes.Add(float64(sent))
	}
}

// Stream counts answers of one kind with one status whose bodies are sent piece
// by piece, but not by way of Serve.
type Stream struct {
	tally   *Tally
	running prometheus.Gauge
}

// Stream returns the counters of such answers.
func (q *Requests) Stream(f Face, k Kind, status int) *Stream {
	if q == nil {
		return nil
	}
	return &Stream{q.Tally(f, k, status), q.running.WithLabelValues(string(f))}
}

// Begin counts an answer as one that is being given. Done follows.
func (s *Stream) Begin() {
	if s != nil {
		s.running.Inc()
	}
}

// Sent counts bytes of a body.
func (s *Stream) Sent(n int) {
	if s != nil {
		s.tally.bytes.Add(float64(n))
	}
}

// Done counts an answer that is over.
func (s *Stream) Done() {
	if s != nil {
		s.running.Dec()
		s.tally.total.Inc()
	}
}

// meter is a ResponseWriter that notes what is answered. As the server's own,
// it sends a file without copying it.
type meter struct {
	http.ResponseWriter
	status int // 0: not said yet
	sent   prometheus.Counter
}

// Unwrap is for http.ResponseController.
func (m *meter) Unwrap() http.ResponseWriter { return m.ResponseWriter }

func (m *meter) WriteHeader(status int) {
	if m.status == 0 && status >= 200 { // others come before the answer
		m.status = status
	}
	m.ResponseWriter.WriteHeader(status)
}

func (m *meter) Write(b []byte) (int, error) {
	n, err := m.ResponseWriter.Write(b)
	m.sent.Add(float64(n))
	return n, err
}

// ReadFrom lets the server use sendfile.
func (m *meter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(m.ResponseWriter, r)
	m.sent.Add(float64(n))
	return n, err
}

// code returns the label for the status; whole says that the handler returned.
func (m *meter) code(whole bool) string {
	switch {
	case !whole:
		return cut
	case m.status == 0:
		return strconv.Itoa(http.StatusOK) // as net/http takes it
	}
	return strconv.Itoa(m.status)
}
