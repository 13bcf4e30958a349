// Command order searches for the order of a round's steps that AVX2 runs the
// fastest, see mixer in the generator: it moves some at random, measures, and
// keeps what is better.
//
//	go run ./order blake2b 60 ORDER
//
// says what it has found after 60 seconds. ORDER is what to begin with. It is for
// Linux on amd64, and of use only where nothing else needs the core's ports.
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// call calls code with a pointer and a count. It is in call_amd64.s.
//
//go:noescape
func call(code unsafe.Pointer, p *byte, n int)

// clock takes 144 cycles n times.
//
//go:noescape
func clock(n int)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "order:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 || args[0] != "blake2b" && args[0] != "chacha20" {
		return fmt.Errorf("usage: order blake2b|chacha20 SECONDS ORDER")
	}
	seconds, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	b := &bench{k: newKernel(args[0] == "blake2b")}
	best := []byte(args[2])
	for i := range best {
		best[i] -= '0'
	}
	if err := b.k.valid(best); err != nil {
		return err
	}
	b.code, err = syscall.Mmap(-1, 0, 1<<20, syscall.PROT_READ|syscall.PROT_WRITE|syscall.PROT_EXEC, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	first := slices.Clone(best)
	tried, taken := 0, 0
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); tried++ {
		next := slices.Clone(best)
		for range 1 + rand.IntN(4) {
			b.k.move(next, rand.IntN(len(next)), rand.IntN(25)-12)
		}
		if !slices.Equal(next, best) && b.better(next, best) {
			best = next
			taken++
		}
	}
	x, y := b.pair(first, best, 101)
	for i := range best {
		best[i] += '0'
	}
	fmt.Printf("%d tried, %d taken, %.4f cycles a byte before, %.4f after\n%s\n", tried, taken, x, y, best)
	return nil
}

// bench measures orders.
type bench struct {
	k    *kernel
	code []byte // executable
	data [4096]byte
}

// better measures again and again, as long as next is better.
func (b *bench) better(next, best []byte) bool {
	for _, times := range []int{3, 9, 25} {
		if x, y := b.pair(next, best, times); x > y-0.0003 {
			return false
		}
	}
	return true
}

// pair returns the medians of two orders that are measured in turns.
func (b *bench) pair(x, y []byte, times int) (float64, float64) {
	half := len(b.code) / 2
	copy(b.code, b.k.code(x))
	copy(b.code[half:], b.k.code(y))
	var r, s []float64
	for range times {
		r = append(r, b.measure(&b.code[0]))
		s = append(s, b.measure(&b.code[half]))
	}
	slices.Sort(r)
	slices.Sort(s)
	return r[times/2], s[times/2]
}

// measure returns the cycles a byte of the rounds.
func (b *bench) measure(code *byte) float64 {
	n := int(30000 / b.k.bytes)
	p := &b.data[64-uintptr(unsafe.Pointer(&b.data[0]))%64]
	call(unsafe.Pointer(code), p, 5)
	for range 20 {
		t := [4]int64{now()}
		clock(120)
		t[1] = now()
		call(unsafe.Pointer(code), p, n)
		t[2] = now()
		clock(120)
		t[3] = now()
		before, after := float64(t[1]-t[0]), float64(t[3]-t[2])
		if before < 1.004*after && after < 1.004*before { // the clock was the same
			return float64(t[2]-t[1]) * 144 * 240 / (before + after) / (float64(n) * b.k.bytes)
		}
	}
	return 9 // of no use
}

// now is the processor time of the thread, in nanoseconds.
func now() int64 {
	const threadCPU = 3
	var t syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, threadCPU, uintptr(unsafe.Pointer(&t)), 0)
	return t.Nano()
}
