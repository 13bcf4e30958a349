package main

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"ersatz/internal/transport/gnunet/gnunettest"
	"ersatz/internal/transport/ipfs/kubotest"
)

// runApp runs a command line with standard input.
func runApp(t *testing.T, stdin io.Reader, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, said bytes.Buffer
	a := &app{stdin: stdin, stdout: &out, stderr: &said, getenv: func(string) string { return "" }}
	code = a.main(t.Context(), args)
	return code, out.String(), said.String()
}

// TestEncodeToDaemons puts 1 MB to real daemons at once, and gets it from each and
// from both.
func TestEncodeToDaemons(t *testing.T) {
	kubo, gnunet := "ipfs+"+kubotest.Start(t).API, "gnunet:"+gnunettest.Start(t).Socket
	const n = 1e6
	content := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), n) }
	code, urn, stderr := runApp(t, content(), "encode", "--to", kubo, "--to", gnunet, "-")
	if code != exitOK || stderr != "" {
		t.Fatalf("status %d: %s", code, stderr)
	}
	want := sha256.New()
	if _, err := io.Copy(want, content()); err != nil {
		t.Fatal(err)
	}
	for _, from := range [][]string{{kubo}, {gnunet}, {kubo, gnunet}} {
		args := []string{"decode", strings.TrimSpace(urn)}
		for _, url := range from {
			args = append(args, "--from", url)
		}
		code, got, stderr := runApp(t, nil, args...)
		if sum := sha256.Sum256([]byte(got)); code != exitOK || !bytes.Equal(sum[:], want.Sum(nil)) {
			t.Errorf("from %q: status %d, %d bytes of %d: %s", from, code, len(got), int(n), stderr)
		}
	}
}
