package compress_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"

	"ersatz/internal/compress"
)

// packXZ compresses with the library's encoder, in blocks of size bytes.
func packXZ(t testing.TB, data []byte, check byte, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	config := xz.WriterConfig{CheckSum: check, NoCheckSum: check == xz.None, DictCap: 64 << 10, BlockSize: size}
	w, err := config.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestXZ(t *testing.T) {
	data := content(200_000)
	for _, check := range []byte{xz.None, xz.CRC32, xz.CRC64, xz.SHA256} {
		for _, size := range []int64{1 << 40, 30_000, 1} {
			data := data[:min(int64(len(data)), size*100)]
			one := packXZ(t, data, check, size)
			// A second stream, zeros between and after.
			two := append(append(bytes.Clone(one), 0, 0, 0, 0, 0, 0, 0, 0), one...)
			two = append(two, 0, 0, 0, 0)
			for _, c := range []struct {
				packed []byte
				want   int
			}{{one, 1}, {two, 2}} {
				got, err := unpack(bytes.NewReader(c.packed), "xz")
				if err != nil || !bytes.Equal(got, bytes.Repeat(data, c.want)) {
					t.Errorf("check %d, blocks of %d, %d streams: %d bytes, %v", check, size, c.want, len(got), err)
				}
			}
		}
	}
}

// TestXZEmptyStreams reads streams without a block, of which each must not cost
// a piece of the stack: a program whose stack is too large ends.
func TestXZEmptyStreams(t *testing.T) {
	defer debug.SetMaxStack(debug.SetMaxStack(1 << 20))
	// What "xz --check=none" makes of nothing.
	one, err := hex.DecodeString("fd377a585a000000ff12d941000000001cdf442106729e7a010000000000595a")
	if err != nil {
		t.Fatal(err)
	}
	packed := bytes.Repeat(one, 100_000)
	if got, err := unpack(bytes.NewReader(packed), "xz"); err != nil || len(got) > 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestDictionaries reads files whose parts are all but empty and ask for the
// largest window each: a few KiB would cost minutes.
func TestDictionaries(t *testing.T) {
	var member bytes.Buffer
	w, err := compress.NewWriter(&member, compress.Method{Name: "lzip", Level: 9})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	x, err := xz.WriterConfig{DictCap: 64 << 20}.NewWriter(&stream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	for name, one := range map[string][]byte{"lzip": member.Bytes(), "xz": stream.Bytes()} {
		if _, err := unpack(bytes.NewReader(bytes.Repeat(one, 4)), name); err != nil {
			t.Errorf("%s: a few: %v", name, err)
		}
		_, err := unpack(bytes.NewReader(bytes.Repeat(one, 100)), name)
		if err == nil || !strings.Contains(err.Error(), "dictionaries") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestXZTool reads what the reference program makes of its settings.
func TestXZTool(t *testing.T) {
	data := content(1_000_000)
	for _, args := range [][]string{
		{"-6"}, {"-0", "-T2", "--block-size=100000"}, {"-C", "none"}, {"-C", "sha256"}, {"-e", "-3"}, {"--lzma2=dict=4KiB"},
	} {
		packed := tool(t, data, "xz", append([]string{"-c"}, args...)...)
		if got, err := unpack(bytes.NewReader(packed), "xz"); err != nil || !bytes.Equal(got, data) {
			t.Errorf("xz %v: %d bytes, %v", args, len(got), err)
		}
	}
	packed := tool(t, data, "xz", "-c", "--x86", "--lzma2")
	if _, err := unpack(bytes.NewReader(packed), "xz"); err == nil {
		t.Error("a filter that is not read: no error")
	}
}

// TestXZChanged changes each byte of a stream: that is noticed, or, in two
// places that the library's LZMA2 does not look at, makes no difference.
func TestXZChanged(t *testing.T) {
	data := content(1500)
	packed := packXZ(t, data, xz.CRC32, 1000)
	unnoticed := 0
	for i := range packed {
		for _, flip := range []byte{1, 0x80} {
			bad := bytes.Clone(packed)
			bad[i] ^= flip
			got, err := unpack(bytes.NewReader(bad), "xz")
			if err != nil {
				continue
			}
			if unnoticed++; !bytes.Equal(got, data) {
				t.Errorf("byte %d of %d changed by %#x: other content and no error", i, len(packed), flip)
			}
		}
		if _, err := unpack(bytes.NewReader(packed[:i]), "xz"); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at byte %d: %v", i, err)
		}
	}
	if unnoticed > 8 {
		t.Errorf("%d changes make no difference", unnoticed)
	}
}

// greedy are streams that ask for a large history, and hold a byte.
func greedy() map[string][]byte {
	xz := append([]byte("\xfd7zXZ\x00"), 0, 0)
	xz = binary.LittleEndian.AppendUint32(xz, crc32.ChecksumIEEE([]byte{0, 0}))
	block := []byte{2, 0, 0x21, 1, 40, 0, 0, 0} // 4 GiB less a byte
	xz = append(xz, block...)
	xz = binary.LittleEndian.AppendUint32(xz, crc32.ChecksumIEEE(block))
	xz = append(xz, 1, 0, 0, 'x', 0)
	return map[string][]byte{
		"xz": xz,
		// A frame without a content size, window 2^41 (RFC 8878, "Window Descriptor").
		"zstd": {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 9, 0, 0, 'x'},
		"lzip": append([]byte("LZIP\x01\x1d"), make([]byte, 40)...), // 512 MiB
	}
}

// TestGreedy wants streams refused whose decoder would need much memory,
// before it is taken.
func TestGreedy(t *testing.T) {
	for name, packed := range greedy() {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := unpack(bytes.NewReader(packed), name)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: %d bytes and no error", name, len(got))
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
			t.Errorf("%s: %d bytes were allocated: %v", name, n, err)
		}
	}
}

// packWith compresses with the standard library where it can.
func packWith(t testing.TB, data []byte, name string) []byte {
	t.Helper()
	switch name {
	case "xz":
		return packXZ(t, data, xz.CRC64, 1000)
	case "bzip2":
		// No encoder is linked; this is "hello, world\n" by bzip2 1.0.8.
		return []byte("BZh91AY&SYT\xa4\x97\x84\x00\x00\x02\xd1\x80\x00\x10@\x04\x06D\x90\x80 \x001\x000 hb\x00I\xd4\xb2\x1f?\x17rE8P\x90T\xa4\x97\x84")
	case "stored":
		var b bytes.Buffer
		w, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
		if err == nil {
			_, err = w.Write(data)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	m, err := compress.ParseMethod(name)
	if err != nil {
		t.Fatal(err)
	}
	return pack(t, data, m)
}
