package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ersatz/internal/durable"
	"ersatz/internal/man"
	"ersatz/internal/substitute"
)

// manCommand is for those who package the program.
func (a *app) manCommand() *cobra.Command {
	var date string
	cmd := &cobra.Command{
		Use:     "man [--date DATE] DIR",
		Hidden:  true,
		Short:   "Write the manual pages of all commands into a folder",
		Example: "  ersatz man --date 2026-01-31 man",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			if date != "" {
				if _, err := time.Parse(time.DateOnly, date); err != nil {
					return usageError(fmt.Errorf("--date: %w", err))
				}
			}
			return writePages(args[0], cmd.Root(), man.Options{Date: date, Version: version()})
		}),
	}
	cmd.Flags().StringVar(&date, "date", "", "`DATE` that the pages say, as 2026-01-31")
	return cmd
}

// writePages writes the page of each command, and that of ersatz-substitute,
// into a folder, which it makes.
func writePages(dir string, root *cobra.Command, o man.Options) error {
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var b bytes.Buffer
	save := func(name string, err error) error {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o644)
		}
		b.Reset()
		return err
	}
	for _, c := range man.Commands(root) {
		if err := save(man.Name(c)+".1", man.Write(&b, c, o)); err != nil {
			return err
		}
	}
	return save("ersatz-substitute.8", man.WriteHelp(&b, "ersatz-substitute", "Answer guix-daemon where guix substitute would", substitute.Help, o))
}
