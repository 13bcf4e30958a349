package upstream

import (
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMemory: what is held of texts until they are chosen from is not many times
// what the servers may answer. Most of these are of fields that nobody knows.
func TestMemory(t *testing.T) {
	paths := many(50)
	texts := narinfos(paths)
	for name, rest := range map[string]string{
		"unknown fields": strings.Repeat("x:\n", 20_000),
		"short":          strings.Repeat("x:\n", 2_000),
		"of 8 KB":        "x: " + strings.Repeat("y", 7_500) + "\n",
		"one long field": "x: " + strings.Repeat("y", 60_000) + "\n",
		"references":     "References:" + strings.Repeat(" "+hash+"-x", 1700) + "\n",
	} {
		sv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			text := texts[r.URL.Path]
			if name == "references" { // in place of none
				text = strings.Replace(text, "References: \n", "", 1)
			}
			w.Write([]byte(text + rest))
		})
		c := newClient(t, Options{})
		before := heap()
		answers := c.Ask(t.Context(), []*Server{sv}, paths)
		held, size := heap()-before, int64(0)
		for _, a := range answers {
			if a[0].Err != nil {
				t.Fatal(name, a[0].Err)
			}
			size += int64(len(a[0].Text))
		}
		if t.Logf("%s: %d bytes for %d", name, held, size); held > 4*size+1<<20 {
			t.Errorf("%s: %d bytes are held of %d", name, held, size)
		}
		runtime.KeepAlive(answers)
	}
}

// TestCachedTextsAreBounded: what the cache has counts as what a server answers.
func TestCachedTextsAreBounded(t *testing.T) {
	c := newClient(t, Options{}, t.TempDir())
	sv := server(t, "http://a")
	text := fields(t, nil).Body()
	c.cache.put(sv, hash, text, time.Now().Add(time.Hour))
	answers := [][]Answer{{{}}, {{}}}
	c.known(&lookup{server: sv, most: int64(len(text))}, 0, []query{{hash: hash}, {hash: hash}}, answers)
	if a := answers[0][0]; a.Err != nil || string(a.Text) != string(text) {
		t.Errorf("the first is %+v", a)
	}
	if a := answers[1][0]; a.Err == nil || a.Text != nil {
		t.Errorf("the second, of which there is no room: %d bytes, %v", len(a.Text), a.Err)
	}
}

// heap returns how many bytes are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
