package nar

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// manyChunks are bounds on the chunks of a restore, from the least that there
// can be.
var manyChunks = []int{minRing, minRing + 1, ringSize, wideRing}

// sharedTree has files of all sizes beside each other: too small to be shared,
// shared in batches, and larger than a chunk, some of them twice.
func sharedTree() node {
	root := node{mode: os.ModeDir}
	for d := range 6 {
		sub := node{mode: os.ModeDir}
		for f := range 30 {
			size := []int{0, 100, DedupMinSize - 1, DedupMinSize, DedupMinSize + 1, 20_000}[(f*5+d)%6]
			if f == 9 || f == 20 {
				size = []int{bufSize / 2, bufSize/2 + 1, 2*bufSize + 1}[d%3]
			}
			sub.entries = append(sub.entries, entryNode{fmt.Sprintf("f%02d", f), node{content: strings.Repeat(string(rune('a'+f%20)), size), exec: d == 5}})
		}
		root.entries = append(root.entries, entryNode{fmt.Sprintf("d%d", d), sub})
	}
	return root
}

// A restore goes on with the fewest chunks, and makes the same of them: batches
// that wait for more of them would never be done.
func TestFewChunks(t *testing.T) {
	tree := sharedTree()
	archive := tree.archive()
	want := sha256.Sum256(archive)
	var links []string
	for _, d := range tree.entries {
		for _, f := range d.entries {
			if len(f.content) >= DedupMinSize {
				links = append(links, linkName(f.node))
			}
		}
	}
	slices.Sort(links)
	links = slices.Compact(links)
	for _, n := range []int{1, 2, 8} {
		withProcessors(t, n, func(t *testing.T) {
			for _, chunks := range manyChunks {
				root, path := memoryRoot(t)
				dedup := openDedup(t, path)
				inBubble(t, func(t *testing.T) {
					for _, item := range []string{"new", "known"} {
						if _, err := restore(bytes.NewReader(archive), root, item, RestoreOptions{Dedup: dedup}, chunks); err != nil {
							t.Errorf("%d chunks, %s: %v", chunks, item, err)
						}
					}
				})
				for _, item := range []string{"new", "known"} {
					if got, err := Dump(io.Discard, filepath.Join(path, item)); err != nil || got.Hash != want {
						t.Errorf("%d chunks, %s: another tree, %v", chunks, item, err)
					}
				}
				wantEmpty(t, filepath.Join(path, ".links"), links...)
			}
		})
	}
}

// Batches are of few chunks at first, and of few jobs and folders always. With
// one processor they are done as soon as they are whole.
func TestBatches(t *testing.T) {
	for name, tt := range map[string]struct {
		chunk, folder func(i int) int // of the job i
		want          []int           // jobs done of each batch
	}{
		"chunks":  {func(i int) int { return i }, func(int) int { return 0 }, []int{1, 2, 3, 4, 5, 6, 6, 6}},
		"jobs":    {func(int) int { return 0 }, func(int) int { return 0 }, []int{maxJobs, maxJobs}},
		"folders": {func(int) int { return 0 }, func(i int) int { return i % 2 }, []int{maxFolders, maxFolders}},
		"both":    {func(i int) int { return i / 20 }, func(i int) int { return i / 20 }, []int{20, 40, 60}},
	} {
		withProcessors(t, 1, func(t *testing.T) {
			root, path := memoryRoot(t)
			var folders []*folder
			for i := range 10 {
				if err := root.Mkdir(fmt.Sprint(i), 0o700); err != nil {
					t.Fatal(err)
				}
				fd, err := openDir(unix.AT_FDCWD, filepath.Join(path, fmt.Sprint(i)))
				if err != nil {
					t.Fatal(err)
				}
				d := &folder{fd: fd}
				d.todo.Store(1)
				folders = append(folders, d)
			}
			ring := newRing()
			ring.max = wideRing
			w := newCrew(ring, "x", nil)
			chunks := make([]chunk, 100)
			for i := range chunks {
				chunks[i].users.Store(1) // so that none goes back to the ring
			}
			done := 0 // jobs
			for i := 0; len(tt.want) > 0; i++ {
				w.add(job{dir: folders[tt.folder(i)], name: fmt.Sprint(i), target: "x"}, &chunks[tt.chunk(i)])
				now := i + 1
				if w.cur != nil {
					now -= len(w.cur.jobs)
				}
				if now == done {
					continue
				}
				if now-done != tt.want[0] {
					t.Fatalf("%s: a batch of %d jobs after %d, want %d", name, now-done, done, tt.want[0])
				}
				done, tt.want = now, tt.want[1:]
			}
			if err := w.finish(); err != nil {
				t.Error(err)
			}
			for _, d := range folders {
				if err := w.done(d); err != nil {
					t.Error(err)
				}
			}
			for i := range chunks {
				if n := chunks[i].users.Load(); n != 1 {
					t.Errorf("%s: chunk %d has %d users", name, i, n)
				}
			}
		})
	}
}

// Entries that somebody else has made meanwhile: the error is of the first in
// the archive's order, whoever came upon which first, and whether they are of
// one batch or of several.
func TestFirstError(t *testing.T) {
	for _, size := range []int{1, DedupMinSize} {
		sub := node{mode: os.ModeDir, entries: []entryNode{{"A", node{content: strings.Repeat("x", 3*bufSize)}}}}
		for f := range 200 {
			sub.entries = append(sub.entries, entryNode{fmt.Sprintf("f%03d", f), node{content: strings.Repeat(string(rune(f)), size)}})
		}
		archive := node{mode: os.ModeDir, entries: []entryNode{{"d", sub}}}.archive()
		for _, n := range []int{1, 2, 8} {
			withProcessors(t, n, func(t *testing.T) {
				root, path := memoryRoot(t)
				dedup := openDedup(t, path)
				for i := range 12 {
					taken := []string{fmt.Sprintf("f%03d", 5+9*i), fmt.Sprintf("f%03d", 37+9*i), "f190"}
					r := io.MultiReader(bytes.NewReader(archive[:bufSize]), &once{do: func() {
						for _, f := range taken {
							if err := os.WriteFile(filepath.Join(path, "x", "d", f), nil, 0o600); err != nil {
								t.Error(err)
							}
						}
					}}, bytes.NewReader(archive[bufSize:]))
					_, err := restore(r, root, "x", RestoreOptions{Dedup: dedup}, manyChunks[i%len(manyChunks)])
					if want := fmt.Sprintf(`"d/%s": file exists`, taken[0]); err == nil || !strings.HasSuffix(err.Error(), want) {
						t.Errorf("got %v\nwant %s", err, want)
					}
					wantEmpty(t, path, ".links")
				}
			})
		}
	}
}

// once is an empty stream that calls do when it is read.
type once struct{ do func() }

func (o *once) Read([]byte) (int, error) {
	if o.do != nil {
		o.do()
		o.do = nil
	}
	return 0, io.EOF
}
