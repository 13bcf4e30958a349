package narindex

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ersatz/eris"
)

func TestWriterRefuses(t *testing.T) {
	x := open(t)
	w, err := x.NewWriter(testPath(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Add(eris.Block{Index: 1}); err == nil {
		t.Error("a block out of order was taken")
	}
	if err := w.Add(eris.Block{Level: 5}); err == nil {
		t.Error("a block of a level too high was taken")
	}
	if err := w.Add(eris.Block{}); err != nil {
		t.Error(err)
	}
	if err := w.Commit(t.Context(), eris.ReadCap{Size: eris.Size1KiB}, 5000, "nar/x"); err == nil {
		t.Error("committed with blocks missing")
	}
	if err := w.Abort(); err != nil {
		t.Error(err)
	}
	if w, err = x.NewWriter(testPath(t, 0)); err != nil {
		t.Fatal(err)
	}
	if err := w.Add(eris.Block{}); err != nil {
		t.Error(err)
	}
	if err := w.Commit(t.Context(), eris.ReadCap{Size: eris.Size1KiB}, 5, "../nar"); err == nil {
		t.Error("committed a nar outside the folder")
	}
	names, err := filepath.Glob(filepath.Join(x.dir, TreeDir, "{.,}*"))
	if err != nil || len(names) != 0 || count(t, x) != 0 {
		t.Errorf("left %v, %d rows, %v", names, count(t, x), err)
	}
}

// A tree file that somebody else has written is taken if it is that of the content.
func TestCommitTree(t *testing.T) {
	for _, c := range []struct {
		name   string
		length int64 // of the content, as Commit hears of it
		cut    int64 // bytes of the file
		good   bool
	}{{"as it is", 5000, 0, true}, {"of other content", 5001, 0, false}, {"cut short", 5000, 8, false}, {"empty", 5000, 1 << 20, false}} {
		x := open(t)
		w, err := x.NewWriter(testPath(t, 0))
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(w.File().TempName(), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		tree := NewTreeWriter(f)
		rc, n, err := eris.Encode(bytes.NewReader(randomBytes(1, 5000)), eris.Size1KiB, eris.Secret{}, tree.Add)
		if err == nil {
			err = tree.Finish(rc, n)
		}
		fi, statErr := f.Stat()
		if err := errors.Join(err, statErr); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(max(0, fi.Size()-c.cut)), f.Close()); err != nil {
			t.Fatal(err)
		}
		err = w.CommitTree(t.Context(), rc, c.length, "nar/x")
		if c.good != (err == nil) || !c.good && !errors.Is(err, eris.ErrCorrupt) {
			t.Errorf("%s: %v", c.name, err)
		}
		names, err := os.ReadDir(filepath.Join(x.dir, TreeDir))
		if err != nil || (len(names) == 1) != c.good || (count(t, x) > 0) != c.good {
			t.Errorf("%s: left %v, %d rows, %v", c.name, names, count(t, x), err)
		}
	}
}
