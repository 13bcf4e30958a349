package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"ersatz/internal/config"
	"ersatz/internal/nodeapi"
)

func (a *app) peersCommand() *cobra.Command {
	var socket string
	var asJSON, networks bool
	cmd := &cobra.Command{
		Use:   "peers [--networks] [--json] [--socket PATH]",
		Short: "List the nodes and servers that a node knows, and how they do",
		Long: `Ask the node of this machine whom it knows: nodes named by --peer, and nodes and
substitute servers found on the local network.

For each: since when it is known, when it was last heard of, its latency and time
per block as learnt, also by earlier processes, and the blocks that it gave since
the node started. A last line says of who is not asked at the moment, and why.

With --networks, its stores and networks instead, those of --from and --serve: how
long each takes from the beginning of a search to its first block, and how many
items it was given, is to be given or rid of, and could not be given.

The exit status is 6 if no node listens on the socket.`,
		Example: `  ersatz peers
  ersatz peers --networks
  ersatz peers --json | jq -r '.[] | select(.error) | .url'`,
		Args: cobra.NoArgs,
		RunE: a.run(func(cmd *cobra.Command, _ []string) error {
			c := nodeapi.New(socket, 0)
			defer c.Close()
			if networks {
				status, err := c.Status(cmd.Context())
				if err != nil {
					return noNode(socket, err)
				}
				if asJSON {
					return a.printJSON(append([]nodeapi.Network{}, status.Networks...))
				}
				return printNetworks(a.stdout, status.Networks)
			}
			list, err := c.Peers(cmd.Context())
			if err != nil {
				return noNode(socket, err)
			}
			if asJSON {
				return a.printJSON(list)
			}
			return printPeers(a.stdout, list, time.Now())
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&socket, "socket", config.DefaultNode, "`PATH` of the node's Unix socket")
	flags.BoolVar(&asJSON, "json", false, "print the list as JSON")
	flags.BoolVar(&networks, "networks", false, "list stores and networks")
	markFilename(cmd, "socket")
	return cmd
}

// printJSON prints a list for programs.
func (a *app) printJSON(list any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "\t")
	return enc.Encode(list)
}

// noNode says what to do where a node did not answer.
func noNode(socket string, err error) error {
	var op *net.OpError
	switch {
	case errors.As(err, &op):
		return fmt.Errorf("no node answers on %s; start one with \"ersatz node\", or name its socket with --socket: %w", socket, err)
	case errors.Is(err, nodeapi.ErrNone):
		return fmt.Errorf("what listens on %s is no node, or an older one: %w", socket, err)
	}
	return err
}

// printPeers prints a list for people.
func printPeers(w io.Writer, list []nodeapi.Peer, now time.Time) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "No peers: none is named by --peer, and none has been found on the local network.")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PEER\tKIND\tKNOWN\tSEEN\tLATENCY\tPER BLOCK\tBLOCKS\tBYTES\tNAME") // it keeps its first error
	for _, p := range list {
		name := p.Name
		if p.Named {
			name = "(named by --peer)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", p.URL, p.Kind, age(now, p.Since), age(now, p.Seen),
			milliseconds(p.LatencyMS), milliseconds(p.PerBlockMS), p.Blocks, humanize.Bytes(uint64(max(p.Bytes, 0))), name)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range list {
		if p.Error == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s is not asked: %s\n", p.URL, p.Error); err != nil {
			return err
		}
	}
	return nil
}

// age returns how long ago something was, in its largest unit.
func age(now, then time.Time) string {
	const day = 24 * time.Hour
	if then.IsZero() {
		return "never"
	}
	switch d := max(now.Sub(then), 0); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%d h", d/time.Hour)
	default:
		return fmt.Sprintf("%d d", d/day)
	}
}

// milliseconds prints a time that was measured, "-" if none was.
func milliseconds(ms float64) string {
	if ms <= 0 {
		return "-"
	}
	if ms >= 1000 {
		return fmt.Sprintf("%.3g s", ms/1000)
	}
	return fmt.Sprintf("%.3g ms", ms)
}
