package n2r

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"ersatz/eris"
)

// Blocks is a store that a Handler serves from. What it returns is verified.
type Blocks interface {
	// Get returns a block. The error matches eris.ErrNotFound if it is not
	// there.
	Get(ctx context.Context, ref eris.Ref) ([]byte, error)

	// Batch calls emit(i, block) for each reference in order, with a nil block
	// for one that is not there. emit does not keep the block. Batch returns
	// the first error of emit.
	Batch(ctx context.Context, refs []eris.Ref, emit func(i int, block []byte) error) error
}

// framer is a Blocks that has blocks at hand as a batch is sent.
type framer interface {
	// Frames calls emit with what docs/batch.md wants for the references in
	// order, in pieces of any length, of which emit keeps nothing. It returns the
	// first error of emit.
	Frames(ctx context.Context, refs []eris.Ref, emit func(frames []byte) error) error
}

const (
	// maxBatches bounds the batches that are answered at once, each of which
	// holds what narindex.Index.Batch does.
	maxBatches = 64

	// stall bounds how long a client may leave a write of writeSize waiting.
	stall     = 30 * time.Second
	writeSize = 64 << 10
)

// Handler serves blocks: GET and HEAD of BlockPath, POST of BatchPath.
func Handler(b Blocks) http.Handler {
	s := &server{blocks: b, slots: make(chan struct{}, maxBatches)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+BlockPath, s.block) // and HEAD
	mux.HandleFunc("POST "+BatchPath, s.batch)
	return mux
}

type server struct {
	blocks  Blocks
	slots   chan struct{}
	out     sync.Pool // of *bufio.Writer, for batches
	queries sync.Pool // of *query
}

func (s *server) block(w http.ResponseWriter, r *http.Request) {
	ref, ok := parseQuery(r.URL.RawQuery)
	if !ok {
		http.Error(w, "the query is not urn:blake2b: and 52 characters of upper-case Base32", http.StatusBadRequest)
		return
	}
	block, err := s.blocks.Get(r.Context(), ref)
	switch {
	case errors.Is(err, eris.ErrNotFound):
		http.Error(w, "no such block", http.StatusNotFound)
		return
	case err != nil: // it may be there
		http.Error(w, "blocks cannot be read", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", blockType)
	h.Set("Content-Length", strconv.Itoa(len(block)))
	h.Set("Cache-Control", "max-age=31536000, immutable") // the name is the hash
	if r.Method != http.MethodHead {
		w.Write(block) // an error is the client's going away
	}
}

func (s *server) batch(w http.ResponseWriter, r *http.Request) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many batches at once", http.StatusServiceUnavailable)
		return
	}
	q, ok := s.queries.Get().(*query)
	if !ok {
		q = new(query)
	}
	defer s.queries.Put(q)
	refs, status, msg := q.read(http.MaxBytesReader(w, r.Body, MaxBatch*int64(refSize)))
	if status != http.StatusOK {
		http.Error(w, msg, status)
		return
	}
	w.Header().Set("Content-Type", batchType)
	out := answer{w, http.NewResponseController(w)}
	var err error
	if f, ok := s.blocks.(framer); ok {
		err = f.Frames(r.Context(), refs, out.write)
	} else {
		err = s.oneByOne(r.Context(), refs, out)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // cut it: it must not look complete
	}
	out.control.SetWriteDeadline(time.Time{})
}

// oneByOne answers with blocks of a store that has no frames.
func (s *server) oneByOne(ctx context.Context, refs []eris.Ref, to answer) error {
	out, ok := s.out.Get().(*bufio.Writer)
	if !ok {
		out = bufio.NewWriterSize(nil, writeSize)
	}
	out.Reset(to)
	defer s.out.Put(out)
	err := s.blocks.Batch(ctx, refs, func(_ int, block []byte) error {
		head := binary.BigEndian.AppendUint32(out.AvailableBuffer(), uint32(len(block)))
		if _, err := out.Write(head); err != nil {
			return err
		}
		_, err := out.Write(block)
		return err
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

// answer is where a batch goes: each piece of it in its own time.
type answer struct {
	w       io.Writer
	control *http.ResponseController
}

func (a answer) Write(b []byte) (int, error) { return len(b), a.write(b) }

func (a answer) write(b []byte) error {
	for piece := range slices.Chunk(b, writeSize) {
		// A connection that knows no deadlines is one of a test.
		a.control.SetWriteDeadline(time.Now().Add(stall))
		if _, err := a.w.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// query is the memory for the body of a batch and its references: 32 KiB.
type query struct {
	body [MaxBatch*refSize + 1]byte // one more, for the end to be met
	refs [MaxBatch]eris.Ref
}

// read reads the body of a batch. The references are valid until the next call.
func (q *query) read(body io.Reader) (refs []eris.Ref, status int, msg string) {
	n, err := 0, error(nil)
	for n < len(q.body) && err == nil {
		var m int
		m, err = body.Read(q.body[n:])
		n += m
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge) || n == len(q.body):
		return nil, http.StatusRequestEntityTooLarge, "more than " + strconv.Itoa(MaxBatch) + " references"
	case !errors.Is(err, io.EOF):
		return nil, http.StatusBadRequest, "the body ends early"
	case n == 0 || n%refSize != 0:
		return nil, http.StatusBadRequest, "the body is not a sequence of references of 32 bytes"
	}
	refs = q.refs[:n/refSize]
	for i := range refs {
		copy(refs[i][:], q.body[i*refSize:])
	}
	return refs, http.StatusOK, ""
}
