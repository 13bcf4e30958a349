package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"ersatz/eris"
	"ersatz/internal/bench/kernels"
	"ersatz/internal/bench/xcrypto"
)

// erisGroup measures the encoding itself: in memory, with all vector
// instructions and without those of AVX-512, and as whole processes.
func erisGroup(ctx context.Context, o Options) ([]Table, error) {
	kinds := []struct{ title, debug string }{{"", ""}}
	if strings.Contains(vectors(cpuinfo("flags")), "avx512f") {
		kinds = append(kinds, struct{ title, debug string }{", without AVX-512", "cpu.avx512f=off"})
	}
	var tables []Table
	for _, k := range kinds {
		length := 64 * mib
		if o.Quick {
			length = 16 * mib
		}
		found, err := erisChild(ctx, o, length, k.debug)
		if err != nil {
			return nil, err
		}
		tables = append(tables, erisTable(k.title, length, found))
	}
	t, err := erisProcesses(ctx, o)
	return append(tables, t), err
}

// What a child process measures is in its environment; see ERISChild.
const (
	erisLength = "ERSATZ_BENCH_ERIS"
	erisRuns   = "ERSATZ_BENCH_ERIS_RUNS"
)

// erisChild measures in a new process of this program, whose kernels choose by
// what debug, a value of GODEBUG, leaves of the processor's features.
func erisChild(ctx context.Context, o Options, length int, debug string) ([]erisFigures, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), erisLength+"="+strconv.Itoa(length), erisRuns+"="+strconv.Itoa(o.Runs), "GODEBUG="+debug)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, &errs)
	}
	var found []erisFigures
	return found, json.Unmarshal(out, &found)
}

// ERISChild measures ERIS in memory if this process was started to do so, and
// writes the figures for the one that has started it. Each main program that
// calls Run or Print calls it first, and ends if it returns true.
func ERISChild(ctx context.Context, w io.Writer) (bool, error) {
	length, err := strconv.Atoi(os.Getenv(erisLength))
	if err != nil {
		return false, nil
	}
	o := Options{}
	if o.Runs, err = strconv.Atoi(os.Getenv(erisRuns)); err != nil {
		return true, err
	}
	if err := o.validate(""); err != nil {
		return true, err
	}
	found, err := measureERIS(ctx, o, length)
	return true, errors.Join(err, json.NewEncoder(w).Encode(found))
}

// erisFigures is what one way through the encoding took: seconds of the clock
// and of the processor, with one core and with all of them. The plain loop has
// one goroutine and is measured with one core.
type erisFigures struct {
	What                          string
	OneCPU, LoopCPU, LimitCPU     series
	AllWall, LoopWall, KernelWall series
}

// measureERIS encodes a content in memory, and decodes its blocks.
func measureERIS(ctx context.Context, o Options, length int) ([]erisFigures, error) {
	content := randomBytes(length, 1)
	var all []erisFigures
	for _, size := range []eris.BlockSize{eris.Size32KiB, eris.Size1KiB} {
		blocks, rows := blockMap{}, &blockRows{place: map[eris.Ref]rowPlace{}}
		c, _, err := eris.Encode(bytes.NewReader(content), size, eris.Secret{}, func(b eris.Block) error {
			return errors.Join(blocks.put(b), rows.put(b))
		})
		if err != nil {
			return nil, err
		}
		order, err := rows.inOrder(c)
		if err != nil {
			return nil, err
		}
		leaves := make([]eris.Ref, len(rows.rows[0]))
		for ref, p := range rows.place {
			if p.level == 0 {
				leaves[p.at] = ref
			}
		}
		found := func(i int) []byte { return blocks[leaves[i]] }
		next := func(i int) []byte { return rows.rows[0][i] }
		ways := []struct {
			what         string
			ours, plain  func() error
			kernels, all func() error
		}{
			{fmt.Sprintf("encode, blocks of %v", size),
				func() error { return encodeOurs(content, size, c) }, func() error { return encodePlain(content, size, c) },
				encodeKernels(content, size, 1), encodeKernels(content, size, runtime.NumCPU())},
			{fmt.Sprintf("decode, blocks of %v", size),
				func() error { return decodeOurs(ctx, c, blocks, length) }, func() error { return decodePlain(c, blocks.get, length) },
				decodeKernels(found, len(leaves), size, 1), decodeKernels(found, len(leaves), size, runtime.NumCPU())},
			{fmt.Sprintf("decode in order, blocks of %v", size),
				func() error { return decodeOurs(ctx, c, rows, length) }, func() error { return decodePlain(c, following(order), length) },
				decodeKernels(next, len(leaves), size, 1), decodeKernels(next, len(leaves), size, runtime.NumCPU())},
		}
		for _, way := range ways {
			one := side{name: "ersatz, one core", once: onCores(1, way.ours)}
			every := side{name: "ersatz, all cores", once: onCores(runtime.NumCPU(), way.ours)}
			loop := side{name: "plain loop", once: onCores(1, way.plain)}
			kernel := side{name: "kernels, one core", once: onCores(1, way.kernels)}
			kernels := side{name: "kernels, all cores", once: onCores(runtime.NumCPU(), way.all)}
			if err := turns(ctx, o, &one, &every, &loop, &kernel, &kernels); err != nil {
				return nil, err
			}
			all = append(all, erisFigures{way.what, one.cpu, loop.cpu, kernel.cpu, every.wall, loop.wall, kernels.wall})
		}
	}
	return all, nil
}

// onCores returns work that uses no more than n cores.
func onCores(n int, work func() error) func(context.Context) (usage, error) {
	return func(context.Context) (usage, error) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
		return inProcess(work)
	}
}

func erisTable(kind string, length int, found []erisFigures) Table {
	t := Table{
		Title: fmt.Sprintf("ERIS, %d MiB in memory%s", length/mib, kind),
		Note: "Decoding has all blocks in memory and verifies each. It looks each up in a map of Go by its reference; \"in order\" it does not, as a client " +
			"that gets blocks in the order in which it has asked for them: one look-up for each call finds a row of blocks. " +
			"Beside it a plain loop over golang.org/x/crypto in one goroutine, and the kernels alone: " +
			"BLAKE2b with the key, ChaCha20, BLAKE2b to encode; to decode the last two, leaf by leaf. Both have their blocks from the same map or, in order, from a list. " +
			"With one core the figures are by processor time, with all by the clock; there the loop still has one.",
		Peer: "x/crypto loop", Limit: "kernels",
	}
	n := float64(length)
	for _, f := range found {
		t.versus(f.What+", one core", megabytes, rates(n, f.OneCPU), rates(n, f.LoopCPU), rates(n, f.LimitCPU))
		t.versus(f.What+", all cores", megabytes, rates(n, f.AllWall), rates(n, f.LoopWall), rates(n, f.KernelWall))
	}
	return t
}

// encodeKernels returns the work that no encoder can leave out.
func encodeKernels(content []byte, size eris.BlockSize, cores int) func() error {
	return func() error {
		kernels.Spread(len(content)/int(size), int(size), cores, func(i int) []byte { return content[i*int(size):][:size] }, (*kernels.Batch).Encode)
		return nil
	}
}

// decodeKernels returns the work that no decoder of n leaves can leave out.
func decodeKernels(leaf func(i int) []byte, n int, size eris.BlockSize, cores int) func() error {
	return func() error {
		kernels.Spread(n, int(size), cores, leaf, (*kernels.Batch).Decode)
		return nil
	}
}

func encodeOurs(content []byte, size eris.BlockSize, want eris.ReadCap) error {
	c, _, err := eris.Encode(bytes.NewReader(content), size, eris.Secret{}, func(eris.Block) error { return nil })
	return sameCap(c, want, err)
}

func encodePlain(content []byte, size eris.BlockSize, want eris.ReadCap) error {
	c, err := xcrypto.Encode(bytes.NewReader(content), size, eris.Secret{}, func(eris.Ref, []byte) error { return nil })
	return sameCap(c, want, err)
}

func sameCap(got, want eris.ReadCap, err error) error {
	if err == nil && got != want {
		err = fmt.Errorf("encoded as %s, not %s", got.URN(), want.URN())
	}
	return err
}

func decodeOurs(ctx context.Context, c eris.ReadCap, f eris.Fetcher, length int) error {
	r := eris.NewReader(ctx, c, f, eris.ReaderOptions{})
	n, err := io.Copy(io.Discard, r)
	return sameLength(n, length, errors.Join(err, r.Close()))
}

func decodePlain(c eris.ReadCap, get func(eris.Ref) ([]byte, error), length int) error {
	var n counter
	err := xcrypto.Decode(&n, c, get)
	return sameLength(int64(n), length, err)
}

// following returns blocks one after the other, whatever is asked for.
func following(blocks [][]byte) func(eris.Ref) ([]byte, error) {
	return func(ref eris.Ref) ([]byte, error) {
		if len(blocks) == 0 {
			return nil, fmt.Errorf("%s: %w", ref, eris.ErrNotFound)
		}
		b := blocks[0]
		blocks = blocks[1:]
		return b, nil
	}
}

func sameLength(n int64, want int, err error) error {
	if err == nil && n != int64(want) {
		err = fmt.Errorf("%d bytes decoded of %d", n, want)
	}
	return err
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
