package nar

import (
	"ersatz/internal/lanes"
	"ersatz/internal/wire"
	"ersatz/nixbase32"
)

// fileKey is a file in .links: its name there, which is the SHA-256 in
// nix-base32 of the archive of that one file, and how it has to look.
type fileKey struct {
	name string
	size int64
	perm uint32
}

func newFileKey(sum [32]byte, size int64, exec bool) fileKey {
	return fileKey{name: nixbase32.Encode(sum[:]), size: size, perm: permOf(exec)}
}

const (
	// maxKeyHead is the size of what comes before a file's content in its
	// archive, if it is executable: eight strings and a length, in bytes.
	maxKeyHead = 24 + 16 + 16 + 16 + 24 + 8 + 16 + 8

	// keyTail is the size of what comes after it, padding aside, in bytes.
	keyTail = 16
)

// appendKeyHead appends what comes before the content.
func appendKeyHead(b []byte, size int64, exec bool) []byte {
	b = appendStrings(b, magic, "(", "type", "regular")
	if exec {
		b = appendStrings(b, "executable", "")
	}
	return wire.AppendUint64(appendStrings(b, "contents"), uint64(size))
}

// appendKeyTail appends what comes after it.
func appendKeyTail(b []byte, size int64) []byte {
	var zeros [8]byte
	return appendStrings(append(b, zeros[:wire.Padding(uint64(size))]...), ")")
}

// keyHash computes the key of a file whose content comes in pieces. It is used
// for one file after the other.
type keyHash struct {
	hashing
	length int64 // of the content
	exec   bool
	tags   [maxKeyHead]byte // around the content
}

// begin makes k that of a file, whose content is then added. The chunks are
// ring's.
func (k *keyHash) begin(ring *ring, size int64, exec bool) {
	if k.Hasher == nil {
		k.Hasher = NewHasher()
	}
	k.reset()
	k.ring, k.length, k.exec = ring, size, exec
	k.Write(appendKeyHead(k.tags[:0], size, exec))
}

// key returns the key, all content having been added.
func (k *keyHash) key() fileKey {
	k.finish()
	k.Write(appendKeyTail(k.tags[:0], k.length))
	return newFileKey(k.Sum(), k.length, k.exec)
}

// keySums computes the keys of many files at once, whose contents are at hand.
// It is used for one batch after the other.
type keySums struct {
	keys []fileKey // of all jobs
	msgs []lanes.Pieces
	sums [][32]byte
	tags []byte
}

// of returns a key for each job, without a name for those that are not shared.
// They are valid until the next call.
func (k *keySums) of(jobs []job) []fileKey {
	k.keys, k.msgs, k.sums = k.keys[:0], k.msgs[:0], k.sums[:0]
	if need := len(jobs) * (maxKeyHead + 8 + keyTail); cap(k.tags) < need {
		k.tags = make([]byte, 0, need) // the messages refer to it, so it must not move
	}
	tags := k.tags[:0]
	for i := range jobs {
		j := &jobs[i]
		if !j.shared() {
			continue
		}
		size, at := int64(len(j.data)), len(tags)
		tags = appendKeyHead(tags, size, j.exec)
		end := len(tags)
		tags = appendKeyTail(tags, size)
		k.msgs = append(k.msgs, lanes.Pieces{tags[at:end], j.data, tags[end:]})
		k.sums = append(k.sums, [32]byte{})
	}
	lanes.SumsSHA256(k.sums, k.msgs)
	n := 0
	for i := range jobs {
		var key fileKey
		if j := &jobs[i]; j.shared() {
			key = newFileKey(k.sums[n], int64(len(j.data)), j.exec)
			n++
		}
		k.keys = append(k.keys, key)
	}
	clear(k.msgs) // contents belong to others
	return k.keys
}
