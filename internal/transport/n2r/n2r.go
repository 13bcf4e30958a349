// Package n2r carries ERIS blocks over HTTP: one by one as "ERIS over HTTP"
// has it (https://eris.codeberg.page/eer/http.xml, over RFC 2169), which is
// what other ERIS servers speak, and many in one response as docs/batch.md
// describes, which is ours.
package n2r

import (
	"strings"

	"ersatz/eris"
)

const (
	// BlockPath is where single blocks are, the URN being the bare query.
	BlockPath = "/uri-res/N2R"

	// BatchPath is where batches are asked for by POST.
	BatchPath = "/eris/blocks"

	// MaxBatch bounds the references in one request.
	MaxBatch = 512

	batchType = "application/vnd.eris.blocks"
	blockType = "application/octet-stream"
	urnPrefix = "urn:blake2b:"
	refSize   = len(eris.Ref{})
	frameHead = 4 // bytes of the length before each block of a batch
)

// Path returns the request path of a block (RFC 2169, "General Approach").
func Path(ref eris.Ref) string { return BlockPath + "?" + urnPrefix + ref.String() }

// parseQuery reads the query of a request for one block.
func parseQuery(query string) (eris.Ref, bool) {
	text, ok := strings.CutPrefix(query, urnPrefix)
	if !ok {
		return eris.Ref{}, false
	}
	ref, err := eris.ParseRef(text)
	return ref, err == nil
}
