// Command erisloop encodes a file as ERIS 1.0.0 and prints its URN, or decodes
// the blocks in a folder to standard output, by the plain loop of package
// xcrypto: what `ersatz encode` and `ersatz decode` are measured beside as
// whole processes. It does also what neither can leave out: reading, writing and
// the kernels, by one goroutine.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"ersatz/eris"
	"ersatz/internal/bench/xcrypto"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "erisloop:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	do := map[string]func(string, string) error{"encode": encode, "decode": decode, "encode-limit": encodeLimit, "decode-limit": decodeLimit}
	if len(args) != 3 || do[args[0]] == nil {
		return errors.New("usage: erisloop encode|encode-limit SIZE FILE, or erisloop decode URN FOLDER, or erisloop decode-limit SIZE FOLDER")
	}
	return do[args[0]](args[1], args[2])
}

func encode(size, name string) error {
	s, err := eris.ParseBlockSize(size)
	if err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := xcrypto.Encode(bufio.NewReaderSize(f, 256<<10), s, eris.Secret{}, func(eris.Ref, []byte) error { return nil })
	if err == nil {
		_, err = fmt.Println(c.URN())
	}
	return err
}

func decode(urn, folder string) error {
	c, err := eris.ParseURN(urn)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(os.Stdout, 256<<10)
	err = xcrypto.Decode(out, c, func(ref eris.Ref) ([]byte, error) {
		return os.ReadFile(filepath.Join(folder, ref.String()))
	})
	return errors.Join(err, out.Flush())
}
