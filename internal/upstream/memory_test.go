package upstream

import (
	"net/http"
	"runtime"
	"strings"
	"testing"
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

// heap returns how many bytes are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
