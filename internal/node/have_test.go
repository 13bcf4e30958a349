package node

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"ersatz/internal/nodeapi"
	"ersatz/narinfo"
)

// TestSocketHave: whoever is on this machine may ask what peers hold, within
// bounds.
func TestSocketHave(t *testing.T) {
	r := newRig(t)
	r.start()
	hash := func(i int) string { return narinfo.FormatHash([32]byte{byte(i)}) }
	ask := func(hashes ...string) string { return body(t, nodeapi.HaveRequest{NarHashes: hashes}) }
	if got := r.want(r.send("", "POST", nodeapi.HavePath, ask(hash(1))), http.StatusOK); strings.TrimSpace(got) != "[\n\tnull\n]" {
		t.Errorf("without peers: %s", got)
	}
	r.o.Have = func(_ context.Context, hashes [][32]byte) [][]nodeapi.Claim {
		claims := make([][]nodeapi.Claim, len(hashes))
		for i, h := range hashes {
			if h[0] == 2 {
				claims[i] = []nodeapi.Claim{{Peer: "http://p", URN: "urn", Format: "f", Part: true}}
			}
		}
		return claims
	}
	r.start()
	var claims [][]nodeapi.Claim
	text := r.want(r.send("", "POST", nodeapi.HavePath, ask(hash(1), hash(2))), http.StatusOK)
	if err := json.Unmarshal([]byte(text), &claims); err != nil || len(claims) != 2 || claims[0] != nil ||
		claims[1][0] != (nodeapi.Claim{Peer: "http://p", URN: "urn", Format: "f", Part: true}) {
		t.Errorf("%s, %v", text, err)
	}
	many := make([]string, nodeapi.MaxHave+1)
	for i := range many {
		many[i] = hash(i)
	}
	if got := r.want(r.send("", "POST", nodeapi.HavePath, ask(many[:nodeapi.MaxHave]...)), http.StatusOK); !strings.Contains(got, "http://p") {
		t.Errorf("of the most that may be: %.100s", got)
	}
	for text, status := range map[string]int{
		ask("sha256:x"):          http.StatusBadRequest,
		ask("sha512:" + hash(1)): http.StatusBadRequest,
		"[":                      http.StatusBadRequest,
		ask(many...):             http.StatusRequestEntityTooLarge,
		strings.Repeat(" ", nodeapi.MaxHaveBody+1): http.StatusRequestEntityTooLarge,
	} {
		if w := r.send("", "POST", nodeapi.HavePath, text); w.Code != status {
			t.Errorf("%.50q: status %d, want %d", text, w.Code, status)
		}
	}
	if w := r.send("", "GET", nodeapi.HavePath, ""); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: status %d", w.Code)
	}
}
