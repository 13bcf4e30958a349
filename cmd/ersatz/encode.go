package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"ersatz/eris"
	"ersatz/internal/block/dirstore"
)

func (a *app) encodeCommand() *cobra.Command {
	var size, secret, dir string
	cmd := &cobra.Command{
		Use:   "encode [--block-size 1KiB|32KiB] [--convergence-secret BASE32] [--blocks DIR] FILE|-",
		Short: "Print the ERIS URN of a file, and write its blocks",
		Long: `Encode a file, or standard input if it is "-", as ERIS 1.0.0. The URN is printed
on a line of its own. It is the name of the content and the key to it at once.

With --blocks, each block is written to DIR, which is made if it is missing,
under its reference: 52 characters of upper-case unpadded Base32.

Without --block-size, content below 16 KiB gets blocks of 1 KiB, other content
blocks of 32 KiB.`,
		Example: `  ersatz encode README.md
  ersatz encode --blocks blocks README.md
  tar c photos | ersatz encode --block-size 32KiB --blocks /srv/blocks -`,
		Args: cobra.ExactArgs(1),
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			return a.encode(cmd.Context(), size, secret, dir, args[0])
		}),
	}
	f := cmd.Flags()
	f.StringVar(&size, "block-size", "", "`SIZE` of the blocks: 1KiB or 32KiB (default by length)")
	f.StringVar(&secret, "convergence-secret", "", "52 characters of `BASE32`: only who knows it can tell that this content is stored")
	f.StringVar(&dir, "blocks", "", "`DIR` to write the blocks to")
	complete(cmd, "block-size", "1KiB", "32KiB")
	markDirname(cmd, "blocks")
	return cmd
}

func (a *app) encode(ctx context.Context, size, secret, dir, name string) error {
	var blockSize eris.BlockSize
	var key eris.Secret
	var err error
	if size != "" {
		if blockSize, err = eris.ParseBlockSize(size); err != nil {
			return usageError(err)
		}
	}
	if secret != "" {
		if key, err = eris.ParseSecret(secret); err != nil {
			return usageError(err)
		}
	}
	in, length, err := a.open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	content := bufio.NewReaderSize(in, 64<<10)
	if blockSize == 0 {
		start, err := content.Peek(16 << 10)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		blockSize = eris.Recommended(int64(len(start)))
	}
	var emit func(eris.Block) error
	if dir != "" {
		store, err := dirstore.Create(dir)
		if err != nil {
			return err
		}
		defer store.Close()
		emit = func(b eris.Block) error {
			if err := store.Put(ctx, b.Ref, b.Data); err != nil {
				return fmt.Errorf("%s: %w", dir, err)
			}
			return nil
		}
	}
	bar := a.progress("encoding", length)
	c, _, err := eris.Encode(io.TeeReader(content, bar), blockSize, key, emit)
	bar.Close()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, c.URN())
	return err
}
