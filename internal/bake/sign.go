package bake

import (
	"path"

	"ersatz/guixsig"
	"ersatz/internal/storedb"
	"ersatz/narinfo"
)

// SignNarinfo returns the narinfo of an item in the order of `guix publish`,
// signed by key; host names the server to people. format and urn are
// ERISFormat and ERIS, both "" where the item was not encoded. nars is what
// stands below the signature.
func SignNarinfo(info storedb.Info, key *guixsig.PrivateKey, host, format, urn string, nars []narinfo.Nar) ([]byte, error) {
	f := narinfo.Fields{
		StorePath: info.Path, NarHash: info.NarHash, NarSize: info.NarSize,
		References: make([]string, len(info.References)), ERISFormat: format, ERIS: urn,
	}
	for i, r := range info.References {
		f.References[i] = r.Base()
	}
	if info.Deriver != "" {
		f.Deriver = path.Base(info.Deriver)
	}
	text, err := narinfo.SignGuix(f.Body(), key, host)
	if err != nil {
		return nil, err
	}
	return append(text, narinfo.Locations(nars)...), nil
}
