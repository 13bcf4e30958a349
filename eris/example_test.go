package eris_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"

	"ersatz/eris"
)

// mapFetcher gets blocks from a map; it trusts nobody, since got verifies.
type mapFetcher map[eris.Ref][]byte

func (m mapFetcher) Fetch(_ context.Context, _ eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	for i, ref := range refs {
		if block, ok := m[ref]; ok {
			if err := got(i, block); err != nil {
				return err
			}
		}
	}
	return nil
}

func Example() {
	blocks := mapFetcher{}
	readCap, _, err := eris.Encode(strings.NewReader("Hello world!"), eris.Size1KiB, eris.Secret{},
		func(b eris.Block) error {
			blocks[b.Ref] = bytes.Clone(b.Data)
			return nil
		})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(readCap.URN())

	r := eris.NewReader(context.Background(), readCap, blocks, eris.ReaderOptions{MaxLength: 1 << 20})
	defer r.Close()
	if _, err := io.Copy(os.Stdout, r); err != nil {
		log.Fatal(err)
	}
	// Output:
	// urn:eris:BIAD77QDJMFAKZYH2DXBUZYAP3MXZ3DJZVFYQ5DFWC6T65WSFCU5S2IT4YZGJ7AC4SYQMP2DM2ANS2ZTCP3DJJIRV733CRAAHOSWIYZM3M
	// Hello world!
}
