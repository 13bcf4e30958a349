package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"ersatz/eris"
	"ersatz/eriscbor"
)

func (a *app) encodeCommand() *cobra.Command {
	var size, secret string
	var out encodeOutputs
	cmd := &cobra.Command{
		Use:   "encode [--block-size 1KiB|32KiB] [--convergence-secret BASE32] [--to URL]... [--blocks DIR|--bundle FILE] FILE|-",
		Short: "Print the ERIS URN of a file, and put its blocks somewhere",
		Long: `Encode a file, or standard input if it is "-", as ERIS 1.0.0. The URN is printed
on a line of its own. It is the name of the content and the key to it at once.

With --to, the blocks are put to stores, by store URLs of all transports
(docs/stores.md):
` + schemeList() + `.
URLs of HTTP and CoAP must grant it: they say put. Without --to, --blocks and
--bundle, the stores of ERIS_STORE_URL that grant put get the blocks, or else those
of the setting "stores". If a store fails, the others get all, no URN is printed,
and the exit status is not 0.

Some networks have only what a running program gives: then encode prints the URN
and serves until it is interrupted, or as long as --for says.

With --blocks, each block is written to DIR, which is made if it is missing,
under its reference: 52 characters of upper-case unpadded Base32. With --bundle,
all blocks go into one file, with the read capability at its end. With --link, the
read capability, the size and the media type go into a small one.

Without --block-size, content below 16 KiB gets blocks of 1 KiB, other content
blocks of 32 KiB.`,
		Example: `  ersatz encode README.md
  ersatz encode --blocks blocks README.md
  ersatz encode --bundle README.cbor --link README.md.eris README.md
  ersatz encode --to 'coap+tcp://server.example?get&put' --to ipfs+http://127.0.0.1:5001 README.md
  ersatz encode --to ipfs: --to bittorrent: --for 2h README.md
  tar c photos | ersatz encode --block-size 32KiB --blocks /srv/blocks -`,
		Args: cobra.ExactArgs(1),
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			return a.encode(cmd.Context(), size, secret, out, args[0])
		}),
	}
	f := cmd.Flags()
	f.StringVar(&size, "block-size", "", "`SIZE` of the blocks: 1KiB or 32KiB (default by length)")
	f.StringVar(&secret, "convergence-secret", "", "52 characters of `BASE32`: only who knows it can tell that this content is stored")
	f.StringArrayVar(&out.to, "to", nil, "`URL` of a store to put the blocks to (repeatable)")
	f.DurationVar(&out.duration, "for", 0, "`TIME` to serve to networks that need it (default until interrupted)")
	f.StringVar(&out.dir, "blocks", "", "`DIR` to write the blocks to")
	f.StringVar(&out.bundle, "bundle", "", "`FILE` to write a bundle of the blocks to")
	f.StringVar(&out.link, "link", "", "`FILE`, in .eris, to write a link to the content to")
	f.StringVar(&out.mediaType, "type", "", "media `TYPE` that the link says (default by the file's name)")
	completeStores(cmd, "to")
	complete(cmd, "block-size", "1KiB", "32KiB")
	markDirname(cmd, "blocks")
	markFilename(cmd, "bundle")
	markFilename(cmd, "link", strings.TrimPrefix(eriscbor.LinkSuffix, "."))
	return cmd
}

func (a *app) encode(ctx context.Context, size, secret string, out encodeOutputs, name string) (err error) {
	var blockSize eris.BlockSize
	var key eris.Secret
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
	if err := out.check(); err != nil {
		return err
	}
	urls, err := out.urls(a, out.dir == "" && out.bundle == "")
	if err != nil {
		return err
	}
	if len(urls) > 0 || out.bundle != "" { // a part of a bundle is removed
		var stop context.CancelFunc
		ctx, stop = untilSignal(ctx)
		defer stop()
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
	to, err := openEncodeStores(ctx, a, urls, blockSize)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.close()) }()
	w, err := out.open(ctx, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	bar := a.progress("encoding", length)
	c, n, err := eris.Encode(io.TeeReader(content, bar), blockSize, key, w.emit)
	bar.Close()
	if err := w.finish(c, n, name, err); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(a.stdout, c.URN()); err != nil {
		return err
	}
	return to.serve(ctx, a.stderr, out.duration)
}
