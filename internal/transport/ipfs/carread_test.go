package ipfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"ersatz/eris"
)

// sampleCAR returns a CAR of some blocks, and what it has.
func sampleCAR(t testing.TB) (car []byte, sections []section) {
	t.Helper()
	var out bytes.Buffer
	w := carWriter{w: &out}
	if err := w.header(nodeCID(nil)); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		data := bytes.Repeat([]byte{byte(i)}, i*100)
		s := section{rawCID(eris.BlockRef(data)), data}
		if i%3 == 0 {
			s.id = nodeCID(data)
		}
		if err := w.block(s.id, data); err != nil {
			t.Fatal(err)
		}
		sections = append(sections, s)
	}
	return out.Bytes(), sections
}

// readCAR returns what a CAR has, and how it ends.
func readCAR(r io.Reader) (sections []section, err error) {
	c, err := newCARReader(r)
	for err == nil {
		var s section
		if s.id, s.data, err = c.next(); err == nil {
			s.data = bytes.Clone(s.data)
			sections = append(sections, s)
		}
	}
	return sections, err
}

func sameSections(a, b []section) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].id != b[i].id || !bytes.Equal(a[i].data, b[i].data) {
			return false
		}
	}
	return true
}

func TestReadCAR(t *testing.T) {
	car, want := sampleCAR(t)
	for how, r := range map[string]io.Reader{"at once": bytes.NewReader(car), "in bytes": iotest.OneByteReader(bytes.NewReader(car))} {
		if got, err := readCAR(r); !errors.Is(err, io.EOF) || !sameSections(got, want) {
			t.Errorf("%s: %d sections, %v", how, len(got), err)
		}
	}
	// It may end between two sections, and nowhere else.
	ends := 0
	for n := range car {
		got, err := readCAR(bytes.NewReader(car[:n]))
		if !sameSections(got, want[:len(got)]) {
			t.Fatalf("%d bytes: other sections", n)
		}
		if errors.Is(err, io.EOF) {
			ends++
		} else if !errors.Is(err, ErrCAR) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if ends != len(want) {
		t.Errorf("it may end at %d places", ends)
	}
}

// TestReadCAROthers passes over blocks that have no name of ours, and those that
// are too long.
func TestReadCAROthers(t *testing.T) {
	car, want := sampleCAR(t)
	header := 1 + int(car[0])
	for what, other := range map[string][]byte{
		"SHA-256": append([]byte{1, 0x55, 0x12, 0x20}, make([]byte, 32+500)...),
		"CIDv0":   append([]byte{0x12, 0x20}, make([]byte, 32+500)...),
		"dag-pb":  append(append([]byte{1, 0x70, 0xa0, 0xe4, 0x02, 0x20}, make([]byte, 32)...), 1, 2, 3),
		"short":   {1, 0x55, 0, 0},
		"long":    append(append([]byte{1, 0x55, 0xa0, 0xe4, 0x02, 0x20}, make([]byte, 32)...), make([]byte, maxNode+1)...),
	} {
		b := binary.AppendUvarint(bytes.Clone(car), uint64(len(other)))
		b = append(append(b, other...), car[header:]...)
		if got, err := readCAR(bytes.NewReader(b)); !errors.Is(err, io.EOF) || !sameSections(got, append(want[:len(want):len(want)], want...)) {
			t.Errorf("%s: %d sections, %v", what, len(got), err)
		}
	}
}

func TestReadCARMalformed(t *testing.T) {
	car, _ := sampleCAR(t)
	for what, b := range map[string][]byte{
		"empty":                nil,
		"not one":              []byte("<html>"),
		"version 2":            append([]byte{0x0a, 0xa1, 0x67}, "version\x02"...),
		"header of no end":     {0xff, 0xff, 0xff, 0xff, 0xff},
		"long header":          {0xff, 0x7f},
		"section of no length": append(bytes.Clone(car), 0),
		"long form of length":  append(bytes.Clone(car), 0x84, 0x00, 1, 1, 1, 1),
		"long section":         append(bytes.Clone(car), 0xff, 0xff, 0xff, 0x7f),
	} {
		if _, err := readCAR(bytes.NewReader(b)); !errors.Is(err, ErrCAR) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzReadCAR: what is read of a CAR is the same when it is written again.
func FuzzReadCAR(f *testing.F) {
	car, _ := sampleCAR(f)
	f.Add(car)
	f.Add(car[:len(car)-1])
	f.Add(car[:1+int(car[0])])
	f.Add(append(bytes.Clone(car), "[Gateway Error: CAR stream truncated]"...))
	f.Add(append(append(bytes.Clone(car[:1+int(car[0])]), 4, 1, 0x55, 0, 0), car[1+int(car[0]):]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readCAR(bytes.NewReader(b))
		if !errors.Is(err, io.EOF) && !errors.Is(err, ErrCAR) {
			t.Fatal(err)
		}
		var out bytes.Buffer
		w := carWriter{w: &out}
		if err := w.header(cid{}); err != nil {
			t.Fatal(err)
		}
		for _, s := range got {
			if err := w.block(s.id, s.data); err != nil {
				t.Fatal(err)
			}
		}
		if again, err := readCAR(&out); !errors.Is(err, io.EOF) || !sameSections(got, again) {
			t.Errorf("%d sections, again %d, %v", len(got), len(again), err)
		}
	})
}
