package ipfs

import (
	"bytes"
	"iter"

	"ersatz/eris"
	"ersatz/internal/block"
)

// Kept returns how many bytes a session of a CAR keeps, and how many it may.
func Kept(session block.Session) (n, most int) {
	for _, b := range session.(*carSession).kept {
		n += len(b)
	}
	return n, maxReach
}

// MaxLinks is the number of links in a full manifest node.
const MaxLinks = maxLinks

// Manifest returns the manifest's CID and its nodes' sizes, children first.
func Manifest(refs iter.Seq[eris.Ref]) (string, []int, error) {
	var sizes []int
	c, err := manifest(refs, func(_ cid, node []byte) error {
		sizes = append(sizes, len(node))
		return nil
	})
	return c.String(), sizes, err
}

// CAR returns the archive that Put sends.
func CAR(refs iter.Seq[eris.Ref], blocks func(emit func(eris.Ref, []byte) error) error) ([]byte, error) {
	top, err := manifest(refs, nil)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = writeCAR(&b, top, refs, blocks)
	return b.Bytes(), err
}

// ParseNode returns how many links a manifest's node has.
func ParseNode(b []byte) (int, error) {
	links, err := parseNode(b)
	return len(links), err
}

// Node returns the node of the links in another one.
func Node(b []byte) []byte {
	links, _ := parseNode(b)
	out := appendHead(nil, cborArray, uint64(len(links)))
	for _, link := range links {
		out = appendLink(out, link)
	}
	return out
}

// ManifestNodes returns the nodes of a manifest, children first.
func ManifestNodes(refs iter.Seq[eris.Ref]) (nodes [][]byte) {
	_, _ = manifest(refs, func(_ cid, node []byte) error { // fails only without references
		nodes = append(nodes, bytes.Clone(node))
		return nil
	})
	return nodes
}
