package realguix

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// text is an endless stream that compresses about as well as the files of
// packages do. The same seed gives the same stream.
type text struct {
	rand    *rand.Rand
	phrases []string
	zipf    *rand.Zipf
	left    string
}

func newText(seed uint64) *text {
	r := rand.New(rand.NewPCG(seed, 0))
	t := &text{rand: r, zipf: rand.NewZipf(r, 1.1, 8, 1<<14-1)}
	for range 1 << 14 {
		b := make([]byte, 4+r.IntN(28))
		for i := range b {
			b[i] = byte(' ' + r.IntN(95))
		}
		t.phrases = append(t.phrases, string(b))
	}
	return t
}

// Read never fails.
func (t *text) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		if t.left == "" {
			if t.rand.IntN(8) == 0 {
				t.left = fmt.Sprintf("%x\n", t.rand.Uint32())
			} else {
				t.left = t.phrases[t.zipf.Uint64()]
			}
		}
		c := copy(p[n:], t.left)
		t.left = t.left[c:]
		n += c
	}
	return len(p), nil
}

// MakeFile makes a file of size bytes.
func MakeFile(name string, seed uint64, size int64) error {
	return writeFile(name, newText(seed), size, 0o644)
}

func writeFile(name string, t *text, size int64, perm os.FileMode) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 64<<10)
	if _, err := io.CopyN(w, t, size); err != nil {
		return err
	}
	return w.Flush()
}

// perFolder is how many files share a folder.
const perFolder = 100

// MakePackage makes a folder like a package's: files in folders, size bytes in
// all, most of them small and some large, some executable, some empty; links;
// an empty folder; names that are not ASCII. The same arguments give the same
// tree.
func MakePackage(dir string, seed uint64, files int, size int64) error {
	t := newText(seed)
	weights := make([]float64, files)
	total := 0.0
	for i := range weights {
		if i%50 != 7 { // the others stay empty
			weights[i] = t.rand.ExpFloat64() * t.rand.ExpFloat64() * t.rand.ExpFloat64()
		}
		total += weights[i]
	}
	for i, w := range weights {
		folder := filepath.Join(dir, []string{"bin", "lib", "share"}[i/perFolder%3], fmt.Sprintf("größe-%02d", i/perFolder))
		if i%perFolder == 0 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
			if err := os.Symlink("file-00000", filepath.Join(folder, "link")); err != nil {
				return err
			}
		}
		perm := os.FileMode(0o644)
		if i%9 == 4 {
			perm = 0o755
		}
		name := filepath.Join(folder, fmt.Sprintf("file-%05d", i))
		if err := writeFile(name, t, int64(w/total*float64(size)), perm); err != nil {
			return err
		}
	}
	return os.Mkdir(filepath.Join(dir, "empty"), 0o755)
}
