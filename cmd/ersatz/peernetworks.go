package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"

	"ersatz/internal/nodeapi"
)

// printNetworks prints the stores of a node for people.
func printNetworks(w io.Writer, list []nodeapi.Network) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "No networks: none is named by --from or --serve.")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NETWORK\tUSE\tSTART\tLATENCY\tPER BLOCK\tBLOCKS\tBYTES\tOFFERED\tWAITING\tFAILED") // it keeps its first error
	for _, n := range list {
		var uses []string
		if n.From {
			uses = append(uses, "from")
		}
		if n.Serve {
			uses = append(uses, "serve")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%d\t%d\t%d\n", n.URL, strings.Join(uses, ","), milliseconds(n.StartMS),
			milliseconds(n.LatencyMS), milliseconds(n.PerBlockMS), n.Blocks, humanize.Bytes(uint64(max(n.Bytes, 0))), n.Offered, n.Waiting, n.Failed)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range list {
		for _, line := range [][2]string{
			{"listens at", strings.Join(n.Listen, ", ")}, {"is not asked:", n.Error}, {"could not be given something:", n.ServeError},
		} {
			if line[1] == "" {
				continue
			}
			if _, err := fmt.Fprintln(w, n.URL, line[0], line[1]); err != nil {
				return err
			}
		}
	}
	return nil
}
