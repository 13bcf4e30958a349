package eriscbor_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"strings"

	"ersatz/eris"
	"ersatz/eriscbor"
)

// A content goes into a bundle, and comes out of it.
func Example() {
	var file bytes.Buffer
	w := eriscbor.NewWriter(&file)
	c, _, err := eris.Encode(strings.NewReader("Hello world!"), eris.Size1KiB, eris.Secret{}, w.Emit)
	if err != nil {
		log.Fatal(err)
	}
	if err := w.Finish(c); err != nil {
		log.Fatal(err)
	}

	bundle := bytes.NewReader(file.Bytes())
	index, err := eriscbor.ReadIndex(bundle, nil)
	if err != nil {
		log.Fatal(err)
	}
	r := eris.NewReader(context.Background(), index.Caps()[0], index.Fetcher(bundle), eris.ReaderOptions{})
	defer r.Close()
	content, err := io.ReadAll(r)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d block, %d bytes: %s\n", index.Blocks(), index.Size(), content)
	// Output: 1 block, 1141 bytes: Hello world!
}
