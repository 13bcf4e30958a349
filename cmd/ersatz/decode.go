package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"ersatz/eris"
	"ersatz/eriscbor"
)

func (a *app) decodeCommand() *cobra.Command {
	var from blockSources
	cmd := &cobra.Command{
		Use:   "decode [--from URL]... [--blocks DIR|--bundle FILE|--ipfs URL] URN|FILE.eris",
		Short: "Write the content of an ERIS URN to standard output",
		Long: `Decode the content of a URN to standard output. Each block is verified before it
is used, whoever sent it. Several stores share the work, and stand in for each
other; what came from where is logged at the end.

--from takes store URLs of all transports (docs/stores.md):
` + schemeList() + `.
Without any store, those of ERIS_STORE_URL are asked that grant get, or else those
of the setting "stores".

If anything fails, also after output has begun, the exit status is not 0: what
was written then is the content's beginning and must not be used.

FILE.eris is a link file, which holds a URN, as encode --link writes it. A bundle
is a file of blocks, such as export writes (docs/bundles.md). The URNs of ERIS
0.3.0, "urn:erisx2:…", are understood too.`,
		Example: `  ersatz decode --blocks blocks urn:eris:BIB… > README.md
  ersatz decode --bundle blocks.cbor README.md.eris > README.md
  ersatz decode --from http://server.example:8080 --from ipfs+http://127.0.0.1:5001 urn:eris:B4A…
  ERIS_STORE_URL='coap+tcp://server.example?get file:///srv/blocks' ersatz decode urn:eris:B4A…`,
		Args: cobra.ExactArgs(1),
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			return a.decode(cmd.Context(), from, args[0])
		}),
	}
	f := cmd.Flags()
	f.StringArrayVar(&from.from, "from", nil, "`URL` of a store that has blocks (repeatable)")
	f.StringArrayVar(&from.dirs, "blocks", nil, "`DIR` that holds blocks, as encode writes it (repeatable)")
	f.StringArrayVar(&from.bundles, "bundle", nil, "`FILE` that is a bundle of blocks (repeatable)")
	f.StringArrayVar(&from.ipfs, "ipfs", nil, "`URL` of the RPC of an IPFS daemon: --ipfs http://… is short for --from ipfs+http://… (repeatable)")
	completeStores(cmd, "from")
	markDirname(cmd, "blocks")
	markFilename(cmd, "bundle")
	return cmd
}

// readCap returns what a URN says, or a link file.
func readCap(arg string) (eris.ReadCap, error) {
	switch {
	case strings.HasSuffix(arg, eriscbor.LinkSuffix):
		b, err := (&app{}).readAll(arg, eriscbor.MaxLink)
		if err != nil {
			return eris.ReadCap{}, err
		}
		link, err := eriscbor.ParseLink(b)
		if err != nil {
			return eris.ReadCap{}, fmt.Errorf("%s: %w", arg, err)
		}
		return link.Cap, nil
	case strings.HasPrefix(arg, "urn:erisx2:"):
		c, err := eris.ParseLegacyURN(arg)
		return c, usageError(err)
	}
	c, err := eris.ParseURN(arg)
	return c, usageError(err)
}

func (a *app) decode(ctx context.Context, from blockSources, urn string) error {
	c, err := readCap(urn)
	if err != nil {
		return err
	}
	log, err := a.logger()
	if err != nil {
		return err
	}
	src, err := from.source(ctx, a, c, log)
	if err != nil {
		return err
	}
	defer src.open.Close()
	r := eris.NewReader(ctx, c, src.blocks, eris.ReaderOptions{})
	defer r.Close()
	var bar progress = noProgress{}
	if !isTerminal(a.stdout) { // which would show bar and content mixed
		bar = a.progress("decoding", -1)
	}
	_, err = r.WriteTo(io.MultiWriter(a.stdout, bar))
	bar.Close()
	return src.tellOrigins(ctx, log, err)
}
