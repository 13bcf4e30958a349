package realguix

import (
	"net/http"
	"strings"
	"testing"
)

// TestBadServers installs nothing from a server that is bad in one way, and
// the item from a good one behind it.
func TestBadServers(t *testing.T) {
	w, i := withErsatz(t), makeItems(t)
	w.daemon(wrapped(true))
	w.check(w.Import(w.ctx, w.key, i.all()...))
	good := "http://" + w.publish("zstd:3", i.big, i.many)
	// An item that the daemon asks for is one that it wants now: the text of
	// another item, validly signed, is big's.
	_, other, err := get(w.ctx, good+"/"+i.big.Path.Hash+".narinfo")
	w.check(err)
	stranger := testKey(t, 2)

	for name, spoil := range map[string]spoiler{
		"hash changed after signing": editNarinfo(func(text string) string {
			return replaceField(text, "NarHash: ", "sha256:"+strings.Repeat("0", 52))
		}),
		"URN changed after signing": editNarinfo(func(text string) string {
			return replaceField(text, "ERIS: ", "urn:eris:"+strings.Repeat("A", 106))
		}),
		"signature of another text": editNarinfo(func(text string) string {
			return replaceField(text, "Signature: ", field(other, "Signature: "))
		}),
		"unsigned": editNarinfo(func(text string) string {
			return strings.Replace(text, "Signature: ", "Scribble: ", 1)
		}),
		"key not in the ACL": editNarinfo(func(text string) string { return resigned(t, text, stranger) }),
		"another path":       editNarinfo(func(string) string { return other }),
		"lying blocks":       lie,
		"truncated nar":      truncate,
		"narinfo alone":      only(),
		"nothing":            func(*http.Response) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			sub := *w
			sub.t = t
			bad := newProxy(t, good, spoil)
			sub.remove(i.many)
			sub.build(i.many, bad.URL)
			sub.wantAbsent(i.many)
			if t.Failed() {
				t.FailNow()
			}
			sub.check(sub.ForgetNarinfos())
			sub.build(i.many, bad.URL, good)
			sub.wantInstalled(i.many, sub.uid("guix-daemon"))
		})
	}
}

// field returns the value of a narinfo's field.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSuffix(value, "\n")
		}
	}
	return ""
}

func replaceField(text, name, value string) string {
	return strings.Replace(text, name+field(text, name), name+value, 1)
}
