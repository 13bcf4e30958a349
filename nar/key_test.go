package nar

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// keyFiles are files of sizes around those of SHA-256's blocks and paddings, as
// the jobs that make them.
func keyFiles() []job {
	var jobs []job
	for size := DedupMinSize - 9; size < DedupMinSize+150; size++ {
		jobs = append(jobs, job{exec: size%2 == 0, data: []byte(strings.Repeat("x", size))})
	}
	for _, size := range []int{0, 1, bufSize/2 - 1, bufSize / 2} {
		jobs = append(jobs, job{data: make([]byte, size)}, job{exec: true, data: make([]byte, size)}, job{target: "link"})
	}
	return jobs
}

// wantKey computes the key of a file by way of its whole archive.
func wantKey(j job) fileKey {
	return fileKey{linkName(node{content: string(j.data), exec: j.exec}), int64(len(j.data)), permOf(j.exec)}
}

// Keys are those of whole archives, however many are computed at once.
func TestKeySums(t *testing.T) {
	jobs := keyFiles()
	var sums keySums
	for n := len(jobs); n > 0; n /= 2 {
		for i := 0; i+n <= len(jobs); i += n {
			for k, got := range sums.of(jobs[i : i+n]) {
				var want fileKey
				if j := jobs[i+k]; len(j.data) >= DedupMinSize {
					want = wantKey(j)
				}
				if got != want {
					t.Fatalf("file %d, of %d at once: got %v, want %v", i+k, n, got, want)
				}
			}
		}
	}
	if got := sums.of(nil); len(got) != 0 {
		t.Errorf("%d keys of no files", len(got))
	}
}

// Keys of what comes in pieces are the same.
func TestKeyHash(t *testing.T) {
	var k keyHash
	ring := newRing()
	defer ring.release()
	for _, j := range keyFiles() {
		if !j.shared() {
			continue
		}
		k.begin(ring, int64(len(j.data)), j.exec)
		for data := j.data; len(data) > 0; {
			c := ring.get()
			n := copy(c.buf[:len(j.data)/3+1], data)
			k.add(c, 0, n)
			ring.put(c)
			data = data[n:]
		}
		if got, want := k.key(), wantKey(j); got != want {
			t.Errorf("%d bytes: got %v, want %v", len(j.data), got, want)
		}
	}
}

// What is around a file's content fits where it is put.
func TestKeyTags(t *testing.T) {
	for _, size := range []int64{0, 1, 7, 8, 1<<62 + 1} {
		for _, exec := range []bool{false, true} {
			head, tail := appendKeyHead(nil, size, exec), appendKeyTail(nil, size)
			if len(head) > maxKeyHead || exec && len(head) < maxKeyHead || len(tail) > 8+keyTail {
				t.Errorf("%d bytes, %v: %d and %d bytes around them", size, exec, len(head), len(tail))
			}
		}
		if size > 8 {
			continue
		}
		content := strings.Repeat("x", int(size))
		got := appendKeyTail(append(appendKeyHead(nil, size, false), content...), size)
		if want := (node{content: content}).archive(); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %q, want %q", size, got, want)
		}
	}
}

// Names are all that a batch of keys allocates.
func TestKeySumsAllocations(t *testing.T) {
	var jobs []job
	for i := range 50 {
		jobs = append(jobs, job{name: fmt.Sprint(i), data: make([]byte, DedupMinSize+i)})
	}
	var sums keySums
	sums.of(jobs)
	if got := testing.AllocsPerRun(10, func() { sums.of(jobs) }); got > float64(2*len(jobs)) {
		t.Errorf("%v allocations for %d keys", got, len(jobs))
	}
}
