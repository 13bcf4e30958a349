package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"ersatz/narinfo"
)

// What a key has signed is believed of it each time anew, whoever has it, and however
// many others have signed.
func TestSigners(t *testing.T) {
	var s signers
	var texts []string
	for k := range byte(2*maxSigners + 1) {
		texts = append(texts, sign(t, makeItem(t, guixItem, fmt.Sprint(k), false, "").text, testKey(t, k+1)))
	}
	for range 2 {
		for k, text := range texts {
			n, err := narinfo.Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			signed, err := s.verify(n)
			if err != nil || !signed.Key.Equal(testKey(t, byte(k+1)).Public()) {
				t.Errorf("key %d: %v, %v", k, signed.Key, err)
			}
			if kept := len(s.acl.Keys()); kept == 0 || kept > maxSigners {
				t.Errorf("%d keys", kept)
			}
		}
	}
	n, err := narinfo.Parse([]byte(strings.Replace(texts[0], "NarSize: ", "NarSize: 1", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.verify(n); !errors.Is(err, narinfo.ErrChanged) {
		t.Errorf("changed: %v", err)
	}
	s = signers{}
	if _, err := s.verify(n); !errors.Is(err, narinfo.ErrChanged) || len(s.acl.Keys()) != 0 {
		t.Errorf("changed, of a key that is not known: %v", err)
	}
}

// A narinfo of what is kept is parsed and judged once.
func TestNarinfoJudgedOnce(t *testing.T) {
	r := newRig(t)
	it := makeItem(t, guixItem, "nar", true, "")
	r.keep(guixServer, it)
	judged := 0
	r.start(guixServer)
	x, err := r.node.kept("", it.path.Hash, func(n *narinfo.Narinfo) (narinfo.Signed, error) {
		judged++
		return r.node.signers.anything(n)
	})
	if err != nil || judged != 1 || string(x.shown.Text()) != it.text {
		t.Errorf("judged %d times, %v", judged, err)
	}
}
