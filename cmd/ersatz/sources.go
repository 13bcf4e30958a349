package main

import (
	"errors"
	"fmt"
	"io"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/dirstore"
	"ersatz/internal/transport/ipfs"
)

// dirReads is how many blocks are read from a folder at once.
const dirReads = 4

// blockSources are the places that decode gets blocks from.
type blockSources struct {
	dirs    []string
	servers []string
	ipfs    string
}

// open returns the sources as one, and what is to be closed afterwards.
func (s blockSources) open() (eris.Fetcher, io.Closer, error) {
	var sources []eris.Fetcher
	var open closers
	for _, dir := range s.dirs {
		store, err := dirstore.Open(dir)
		if err != nil {
			return nil, nil, errors.Join(err, open.Close())
		}
		open = append(open, store)
		sources = append(sources, block.Fetcher(store, dirReads))
	}
	if s.ipfs != "" {
		c, err := ipfs.New(s.ipfs, nil)
		if err != nil {
			return nil, nil, errors.Join(usageError(fmt.Errorf("--ipfs: %w", err)), open.Close())
		}
		sources = append(sources, c)
	}
	return sources[0], open, nil
}

// closers are closed together.
type closers []io.Closer

func (c closers) Close() error {
	var errs []error
	for _, x := range c {
		errs = append(errs, x.Close())
	}
	return errors.Join(errs...)
}
