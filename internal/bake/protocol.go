package bake

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/internal/torrent"
)

// A server and a process that bakes for it are of one version and talk by pipes:
// a job is a line of JSON, and so is the answer to it, which comes before the next
// job. The process ends when its input does.

// How long lines are at most, in bytes. The pieces of the longest torrent are 16
// MB, written as base64.
const (
	maxJob    = 64 << 10
	maxAnswer = 24 << 20
)

// Bounds of what a line says.
const (
	maxThreads = 4096
	maxErrno   = 4095 // of Linux
	maxText    = 4 << 10
)

// reply is what became of a job, or why nothing did.
type reply struct {
	Made  *made
	Fault *fault
	CPU   time.Duration // that the process has used since its last answer
}

// fault is an error that has come from another process.
type fault struct {
	Text  string
	Errno syscall.Errno // that is in it, or 0
}

// newFault makes a fault of an error.
func newFault(err error) *fault {
	f := &fault{Text: err.Error()}
	if len(f.Text) > maxText {
		f.Text = f.Text[:maxText]
	}
	errors.As(err, &f.Errno) // else it stays 0
	return f
}

func (f *fault) Error() string { return f.Text }

// Unwrap returns the Errno, by which errors.Is knows a full disk or a file that is
// not there.
func (f *fault) Unwrap() error {
	if f.Errno == 0 {
		return nil
	}
	return f.Errno
}

// fileName is absolute. JSON has it as base64, since it may be no UTF-8.
type fileName string

func (n fileName) MarshalJSON() ([]byte, error) {
	text := append(base64.StdEncoding.AppendEncode([]byte{'"'}, []byte(n)), '"')
	return text, nil
}

func (n *fileName) UnmarshalJSON(text []byte) error {
	if len(text) < 2 || text[0] != '"' {
		return errors.New("no text")
	}
	name, err := base64.StdEncoding.AppendDecode(nil, text[1:len(text)-1])
	*n = fileName(name)
	return err
}

// parseJob reads a line.
func parseJob(line []byte) (j job, err error) {
	if err := unmarshal(line, maxJob, &j); err != nil {
		return j, fmt.Errorf("job: %w", err)
	}
	if j.Named < 0 || j.Named >= len(j.Forms) || len(j.Forms) > len(methodNames()) || j.Size < 0 {
		return j, fmt.Errorf("job: form %d of %d for %d bytes", j.Named, len(j.Forms), j.Size)
	}
	names := []fileName{j.Path, j.Tree}
	methods := make([]compress.Method, len(j.Forms))
	for i, f := range j.Forms {
		if f.Threads < 1 || f.Threads > maxThreads {
			return j, fmt.Errorf("job: %d threads", f.Threads)
		}
		if m, err := compress.ParseMethod(f.Method.String()); err != nil || m != f.Method {
			return j, fmt.Errorf("job: compression method %q", f.Method)
		}
		methods[i] = f.Method
		names = append(names, f.File)
	}
	for _, name := range names {
		if !filepath.IsAbs(string(name)) || strings.ContainsRune(string(name), 0) {
			return j, fmt.Errorf("job: file %q", name)
		}
	}
	return j, checkMethods(methods)
}

// parseReply reads the line that answers a job of so many forms.
func parseReply(line []byte, forms int) (a reply, err error) {
	if err := unmarshal(line, maxAnswer, &a); err != nil {
		return a, fmt.Errorf("answer: %w", err)
	}
	switch {
	case (a.Made == nil) == (a.Fault == nil), a.CPU < 0:
		return a, errors.New("answer: not one outcome")
	case a.Fault != nil:
		if len(a.Fault.Text) > 2*maxText || a.Fault.Errno > maxErrno { // what was no UTF-8 grows
			return a, errors.New("answer: no error of ours")
		}
		return a, nil
	}
	m := a.Made
	if m.Nar.Size < 0 || len(m.Sizes) != forms {
		return a, fmt.Errorf("answer: nar of %d bytes, %d sizes", m.Nar.Size, len(m.Sizes))
	}
	for _, n := range m.Sizes {
		if n < 0 {
			return a, fmt.Errorf("answer: file of %d bytes", n)
		}
	}
	_, capErr := eris.ParseReadCap(m.Cap)
	_, err = torrent.Resume(m.Pieces)
	return a, errors.Join(capErr, err)
}

// unmarshal reads a line that is one JSON value, without fields that v lacks.
func unmarshal(line []byte, limit int, v any) error {
	if len(line) > limit {
		return fmt.Errorf("%d bytes, limit %d", len(line), limit)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}

// marshal returns a line.
func marshal(v any) ([]byte, error) {
	line, err := json.Marshal(v)
	return append(line, '\n'), err
}
