package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"ersatz/eris"
	"ersatz/internal/bench/kernels"
)

// encodeLimit reads a file and computes keys, blocks and references of its leaves.
func encodeLimit(size, name string) error {
	s, err := eris.ParseBlockSize(size)
	if err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	b := kernels.New(int(s))
	row, nodes := kernels.Places(int(s))
	for {
		n, err := io.ReadFull(f, row)
		b.Encode(nodes[:n/int(s)])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			_, err = fmt.Println("encoded")
			return err
		}
		if err != nil {
			return err
		}
	}
}

// decodeLimit reads all files of a folder, each a block, computes references and nodes,
// and writes these in whatever order.
func decodeLimit(size, folder string) error {
	s, err := eris.ParseBlockSize(size)
	if err != nil {
		return err
	}
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	b := kernels.New(int(s))
	_, blocks := kernels.Places(int(s))
	for names := range slices.Chunk(names, b.Len()) {
		for i, name := range names {
			if err := readBlock(int(dir.Fd()), name, blocks[i]); err != nil {
				return err
			}
		}
		b.Decode(blocks[:len(names)])
		if _, err := os.Stdout.Write(b.Row[:len(names)*int(s)]); err != nil {
			return err
		}
	}
	return nil
}

func readBlock(dir int, name string, block []byte) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n, err := unix.Read(fd, block)
	if err == nil && n != len(block) {
		err = fmt.Errorf("%s: %d bytes", name, n)
	}
	return errors.Join(err, unix.Close(fd))
}
