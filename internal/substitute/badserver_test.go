package substitute_test

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ersatz/narinfo"
)

// TestNumbersForTheDaemon: guix-daemon gives up a query, of any number of
// paths, at a size beyond 63 bits or a deriver that is no store path.
func TestNumbersForTheDaemon(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1), "zstd:3")
	it.fields.Deriver = "/gnu/store/x/y.drv"
	server := newServer(t)
	it.nars[0].FileSize = 1<<64 - 1 // which is not signed
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	want := []string{it.path.String(), "", "1", it.path.String(), "0", fmt.Sprint(it.info.Size), ""}
	if got := m.query("info " + it.path.String()); !slices.Equal(got, want) {
		t.Errorf("info says %q, want %q", got, want)
	}
	m.wantInstalled(m.substitute(it)[0], it)
}

// TestTricklingNarinfo has a server that always sends just enough not to be idle.
func TestTricklingNarinfo(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1), "zstd:3")
	server, slow := newServer(t), newServer(t)
	server.add(t, it, key(t, 1))
	slow.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		for range 200 {
			w.Write(append(bytes.Repeat([]byte{'x'}, 1100), '\n'))
			http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return true
			case <-time.After(50 * time.Millisecond):
			}
		}
		return true
	})
	m := newMachine(t, slow.URL, server.URL)
	m.o.Stall = 500 * time.Millisecond
	start := time.Now()
	m.wantInstalled(m.substitute(it)[0], it)
	if took := time.Since(start); took > 6*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestPageForEverything: what is no narinfo is not kept.
func TestPageForEverything(t *testing.T) {
	it, other := newItem(t, "item-1.0", tree(t, 1), "zstd:3"), newItem(t, "other-1.0", tree(t, 2), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	for _, page := range []string{"<html>Welcome to our hotel\n", string(other.narinfo(t, key(t, 1)))} {
		server.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
			fmt.Fprint(w, page)
			return true
		})
		m := newMachine(t, server.URL)
		if got := m.query("have " + it.path.String()); len(got) != 1 {
			t.Errorf("have says %q", got)
		}
		server.intercept(nil)
		if got := m.query("have " + it.path.String()); len(got) != 2 {
			t.Errorf("have says %q once the page is gone", got)
		}
	}
}

// TestBrokenNarinfos: some connections that break cost no other narinfo, and
// one that broke is tried once more.
func TestBrokenNarinfos(t *testing.T) {
	server := newServer(t)
	var ask []string
	broken := map[string]int{}
	for i := range 40 {
		it := newItem(t, fmt.Sprintf("item-%d", i), tree(t, i), "zstd:3")
		server.add(t, it, key(t, 1))
		ask = append(ask, it.path.String())
		if i < 12 {
			broken["/"+it.path.Hash+".narinfo"] = 1 + i/8 // times
		}
	}
	breaks := make(chan map[string]int, 1)
	breaks <- broken
	server.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		left := <-breaks
		defer func() { breaks <- left }()
		if left[r.URL.Path]--; left[r.URL.Path] < 0 {
			return false
		}
		w.Header().Set("Content-Length", "1000")
		w.Write([]byte("StorePath: "))
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	m := newMachine(t, server.URL)
	if got := m.query("have " + strings.Join(ask, " ")); len(got) != len(ask)-4+1 {
		t.Errorf("have says %d lines of %d\n%s", len(got), len(ask)-4+1, m.log.String())
	}
}

func TestNoControlCharacters(t *testing.T) {
	m := newMachine(t)
	var out bytes.Buffer
	must(t, m.open().Substitute(t.Context(), strings.NewReader("substitute /\x1b[2Jx\u009b /b/c\n"), &out))
	if strings.ContainsAny(m.messages.String(), "\x1b\u009b") {
		t.Errorf("messages %q", m.messages.String())
	}
}

// TestServerTwice: a server that is named twice, with a slash and without, is asked
// once.
func TestServerTwice(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL, server.URL+"/")
	m.wantInstalled(m.substitute(it)[0], it)
	if n := server.count("GET /" + it.path.Hash + ".narinfo"); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
}

// TestURLInTheTrace: what a server says of where its nar is, which nobody has
// signed, is one word of what people see, and printable.
func TestURLInTheTrace(t *testing.T) {
	for _, trace := range []bool{true, false} {
		it := newItem(t, "item-1.0", tree(t, 1), "zstd:3")
		it.nars[0].URL += "?a\u009b2Jb"
		server := newServer(t)
		server.add(t, it, key(t, 1))
		m := newMachine(t, server.URL)
		m.daemon.Trace = trace
		m.wantInstalled(m.substitute(it)[0], it)
		if strings.Contains(m.messages.String(), "\u009b") {
			t.Errorf("trace %t: messages %q", trace, m.messages.String())
		}
	}
}

// TestForgeryBesideLateServer: a server that was late is waited for again when what
// another one says does not count.
func TestForgeryBesideLateServer(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1), "zstd:3")
	server, forger := newServer(t), newServer(t)
	server.add(t, it, key(t, 1))
	forger.add(t, it, key(t, 2))
	now := time.Now()
	m := newMachine(t, forger.URL, server.URL)
	m.o.Stall, m.o.Now = 200*time.Millisecond, func() time.Time { return now }
	server.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	})
	if got := m.query("have " + it.path.String()); len(got) != 1 {
		t.Fatalf("have says %q while nobody has it", got)
	}
	server.intercept(nil)
	now = now.Add(time.Minute) // it rests no more
	if got := m.query("have " + it.path.String()); len(got) != 2 {
		t.Errorf("have says %q\n%s", got, m.log.String())
	}
}

// TestSlowServerWithManyNars: one that has been waited for in vain is not waited
// for again while there is another, nor for the rest of a page that says why.
func TestSlowServerWithManyNars(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"silent": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"trickling page": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			for range 64 {
				w.Write(bytes.Repeat([]byte{'x'}, 1100))
				http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(400 * time.Millisecond):
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			it := newItem(t, "item-1.0", tree(t, 1), "zstd:3")
			server, slow := newServer(t), newServer(t)
			server.add(t, it, key(t, 1))
			for i := range 4 {
				it.nars = append(it.nars, narinfo.Nar{URL: fmt.Sprintf("nar/%d", i), Compression: "zstd", FileSize: 1})
			}
			slow.add(t, it, key(t, 2))
			slow.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if isNar(r) {
					answer(w, r)
				}
				return isNar(r)
			})
			m := newMachine(t, slow.URL, server.URL)
			start := time.Now()
			m.wantInstalled(m.substitute(it)[0], it)
			if took, n := time.Since(start), slow.count("GET /nar"); name == "silent" && n > 1 || took > 12*time.Second {
				t.Errorf("it took %v and %d requests", took, n)
			}
		})
	}
}

// TestSlowServerIsRemembered: a server whose nar was waited for in vain is asked
// for the next item's after the others, until it gives one.
func TestSlowServerIsRemembered(t *testing.T) {
	server, slow := newServer(t), newServer(t)
	var items []*item
	for i := range 4 {
		it := newItem(t, fmt.Sprintf("item-%d", i), tree(t, i+1), "zstd:3")
		slow.add(t, it, key(t, 1))
		if i != 2 {
			server.add(t, it, key(t, 1))
		}
		items = append(items, it)
	}
	slow.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if isNar(r) {
			<-r.Context().Done()
		}
		return isNar(r)
	})
	m := newMachine(t, slow.URL, server.URL)
	m.o.Stall = 500 * time.Millisecond
	s := m.open()
	for i, want := range []int{1, 1, 2, 3} { // the third is nowhere else, and comes then
		if i == 2 {
			slow.intercept(nil)
		}
		if reply := m.substituteBy(s, items[i])[0]; !strings.HasPrefix(reply, "success ") {
			t.Errorf("item %d: %s", i, reply)
		}
		if got := slow.count("GET /nar"); got != want {
			t.Errorf("after item %d, the slow server was asked for %d nars, want %d", i, got, want)
		}
	}
}
