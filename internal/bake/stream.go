package bake

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync"

	"ersatz/eris"
	"ersatz/internal/compress"
)

// encoder encodes a stream whose length is not known at first: the block size
// depends on whether it ends before 16 KiB.
type encoder struct {
	emit  func(eris.Block) error
	start []byte // the stream, until enc is made; memory for another's afterwards
	alone bool   // no other goroutine helps
	enc   *eris.Encoder
	n     int64
}

// small is the length in bytes from which on the large block size is
// recommended.
const small = 16 << 10

func (e *encoder) Write(p []byte) (int, error) {
	e.n += int64(len(p))
	if e.enc != nil {
		return e.enc.Write(p)
	}
	e.start = append(e.start, p...)
	if len(e.start) < small {
		return len(p), nil
	}
	if err := e.begin(); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (e *encoder) begin() error {
	e.enc = eris.NewEncoder(eris.Recommended(e.n), eris.Secret{}, e.emit)
	if e.alone {
		e.enc.Alone()
	}
	_, err := e.enc.Write(e.start)
	return err
}

// finish returns the read capability of the stream.
func (e *encoder) finish() (eris.ReadCap, error) {
	if e.enc == nil {
		if err := e.begin(); err != nil {
			return eris.ReadCap{}, err
		}
	}
	return e.enc.Finish()
}

// stream is a nar on its way into one file, in one form.
type stream struct {
	comp io.WriteCloser
	buf  *bufio.Writer
	enc  *encoder // for the form that the URN names, else nil
	cap  eris.ReadCap
	n    int64 // bytes as compressed
	err  error // the first
}

// sink is a stream below its compressor.
type sink stream

func (s *sink) Write(p []byte) (int, error) {
	giveWay()
	s.n += int64(len(p))
	n, err := s.buf.Write(p)
	if err == nil && s.enc != nil {
		n, err = s.enc.Write(p)
	}
	return n, err
}

// Write compresses p.
func (s *stream) Write(p []byte) (int, error) {
	_, err := s.comp.Write(p)
	if s.err == nil {
		s.err = err
	}
	giveWay()
	return len(p), s.err
}

// finish ends the stream. The file has all of it then, and no name yet.
func (s *stream) finish() error {
	err := s.comp.Close()
	if s.err == nil {
		s.err = err
	}
	if s.err == nil {
		s.err = s.buf.Flush()
	}
	if s.err == nil && s.enc != nil {
		s.cap, s.err = s.enc.finish()
	}
	return s.err
}

// fan hands what is written to it to several streams, each in a goroutine, or in
// that of the caller if it is to be alone or there is one stream only.
type fan struct {
	ctx  context.Context // ends writing; a fan lives as long as one call
	to   []*stream
	stop func() bool // what ctx does to them
	in   []chan []byte
	out  chan error // an answer per piece and stream
	work sync.WaitGroup
	errs []error // of finish, per stream
}

func newFan(ctx context.Context, streams []*stream, alone bool) *fan {
	f := &fan{ctx: ctx, to: streams, errs: make([]error, len(streams))}
	f.stop = context.AfterFunc(ctx, f.interrupt)
	if alone || len(streams) == 1 {
		return f
	}
	f.out = make(chan error, len(streams))
	for i, s := range streams {
		in := make(chan []byte)
		f.in = append(f.in, in)
		f.work.Go(func() {
			for p := range in {
				_, err := s.Write(p)
				f.out <- err
			}
			f.errs[i] = s.finish()
		})
	}
	return f
}

// Write returns when all streams have taken p.
func (f *fan) Write(p []byte) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	var err error
	if f.in == nil {
		for _, s := range f.to {
			_, one := s.Write(p)
			err = errors.Join(err, one)
		}
	}
	for _, in := range f.in {
		in <- p
	}
	for range f.in {
		err = errors.Join(err, <-f.out)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// interrupt has the streams end with an error, without what they still have.
func (f *fan) interrupt() {
	for _, s := range f.to {
		compress.Interrupt(s.comp)
	}
}

// Close ends all streams and waits for them.
func (f *fan) Close() error {
	defer f.stop()
	if f.in == nil {
		for i, s := range f.to {
			f.errs[i] = s.finish()
		}
	}
	for _, in := range f.in {
		close(in)
	}
	f.work.Wait()
	return errors.Join(f.errs...)
}
