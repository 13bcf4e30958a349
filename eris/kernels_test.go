package eris_test

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"ersatz/eris"
	"ersatz/internal/lanes"
)

// TestOtherKernels runs the vectors, and what is made of many blocks, as this
// processor would without its widest vectors: package lanes chooses when a program
// starts.
func TestOtherKernels(t *testing.T) {
	const child = "ERIS_TEST_KERNELS"
	if os.Getenv(child) != "" {
		t.Logf("width %d", lanes.Width())
		vectorsAtOnce(t)
		return
	}
	here := lanes.Width()
	for off, most := range map[string]int{"cpu.avx512f=off": 4, "cpu.avx512f=off,cpu.avx2=off": 1} {
		if here <= most {
			t.Logf("%s: this processor has no more", off)
			continue
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run", "^(TestOtherKernels|TestNegativeVectors|TestMany|TestSeal)$")
		cmd.Env = append(os.Environ(), "GODEBUG="+off, child+"=1")
		out, err := cmd.CombinedOutput()
		width := regexp.MustCompile(`width (\d)`).FindSubmatch(out)
		switch {
		case err != nil || strings.Count(string(out), "\n--- PASS: ") < 4:
			t.Errorf("%s: %v\n%s", off, err, out)
		case width == nil || int(width[1][0]-'0') > most:
			t.Errorf("%s: %s, want %d at most", off, width, most)
		}
	}
}

// vectorsAtOnce encodes and decodes the smaller vectors, many blocks at a time.
func vectorsAtOnce(t *testing.T) {
	for _, v := range load(t, "eris-test-vector-positive-*.json", 9) {
		content, m := unbase32(t, v.Content), newMap()
		secret, err := eris.ParseSecret(v.Secret)
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := eris.Encode(bytes.NewReader(content), eris.BlockSize(v.BlockSize), secret, m.put)
		if err != nil || c.URN() != v.URN || !maps.EqualFunc(m.blocks, v.store(t).blocks, bytes.Equal) {
			t.Errorf("%s: encoded to %s, %v", v.file, c.URN(), err)
		}
		for _, how := range []string{"whole", "fill"} {
			if got, err := decode(t, c, manySource{m}, decoders[how]); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s %s: %d bytes, %v", v.file, how, len(got), err)
			}
		}
	}
}
