package narinfo

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"ersatz/guixsig"
	"ersatz/storepath"
)

// Fields are what a server signs.
type Fields struct {
	StorePath  storepath.Path
	NarHash    [32]byte
	NarSize    uint64
	References []string // last components of store paths
	Deriver    string   // last component; "" if unknown
	ERISFormat string   // both or neither
	ERIS       string
	ERISMagnet string // "" if there is no torrent of the blocks
}

// Body prints the fields in the order of `guix publish`, with those of ERIS
// last: all that stands above the signature.
func (f Fields) Body() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "StorePath: %s\nNarHash: %s\nNarSize: %d\nReferences: %s\n",
		f.StorePath, FormatHash(f.NarHash), f.NarSize, strings.Join(f.References, " "))
	if f.Deriver != "" {
		fmt.Fprintf(&b, "Deriver: %s\n", f.Deriver)
	}
	if f.ERIS != "" {
		fmt.Fprintf(&b, "ERISFormat: %s\nERIS: %s\n", f.ERISFormat, f.ERIS)
	}
	if f.ERISMagnet != "" {
		fmt.Fprintf(&b, "ERISMagnet: %s\n", f.ERISMagnet)
	}
	return b.Bytes()
}

// Locations prints what stands below the signature: where the nar is.
func Locations(nars []Nar) []byte {
	var b bytes.Buffer
	for _, n := range nars {
		fmt.Fprintf(&b, "URL: %s\nCompression: %s\n", n.URL, n.Compression)
		if n.FileSize > 0 {
			fmt.Fprintf(&b, "FileSize: %d\n", n.FileSize)
		}
	}
	return b.Bytes()
}

// SignGuix returns the body and the Signature line over it. host names the
// server to people and is not verified.
func SignGuix(body []byte, key *guixsig.PrivateKey, host string) ([]byte, error) {
	if bytes.Contains(body, []byte(signatureField)) {
		return nil, fmt.Errorf("narinfo: the text has a %q already", signatureField)
	}
	if len(body) == 0 || body[len(body)-1] != '\n' {
		return nil, fmt.Errorf("narinfo: the text to sign does not end with a newline")
	}
	if strings.ContainsAny(host, ";\n") {
		return nil, fmt.Errorf("narinfo: host name %q has a semicolon or newline", host)
	}
	sig := key.Sign(sha256.Sum256(body))
	line := fmt.Sprintf("%s 1;%s;%s\n", signatureField, host, base64.StdEncoding.EncodeToString(sig.Text()))
	return append(bytes.Clone(body), line...), nil
}
