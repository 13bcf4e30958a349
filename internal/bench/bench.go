package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// group is some tables that are measured together, a section of the document.
type group struct {
	name string
	run  func(context.Context, Options) ([]Table, error)
	with needs
}

// needs says what a group cannot do without.
type needs int

const (
	nothing  needs = iota
	guix           // a root folder with a Guix
	patience       // more time than a quick run has
)

func groups() []group {
	return []group{
		{"start", startGroup, guix},
		{"substitute", substituteGroup, guix},
		{"query", queryGroup, guix},
		{"several", severalGroup, guix},
		{"narinfo", narinfoGroup, guix},
		{"bake", bakeGroup, guix},
		{"latency", latencyGroup, patience},
		{"eris", erisGroup, nothing},
		{"nar", narGroup, nothing},
		{"serving", servingGroup, nothing},
		{"batch", batchGroup, nothing},
		{"growth", growthGroup, nothing},
		{"kubo", kuboGroup, patience},
		{"transports", transportGroup, patience},
		{"memory", memoryGroup, guix},
	}
}

// Names returns the names of the groups.
func Names() []string {
	var names []string
	for _, g := range groups() {
		names = append(names, g.name)
	}
	return names
}

// Run measures groups and returns a document in Markdown. names are separated
// by commas; "" means all. The other sections are taken from an earlier
// document. A group that fails is left as it was before, and what is there is
// returned with the error.
func Run(ctx context.Context, names, before string, o Options) (string, error) {
	if err := o.validate(names); err != nil {
		return "", err
	}
	about, err := machine(ctx, o, true)
	if err != nil {
		return "", err
	}
	doc := benchKind().parse(before)
	doc.moveTo(about)
	var errs []error
	err = o.each(ctx, names, func(g group, day time.Time, tables []Table, err error) {
		if err != nil {
			errs = append(errs, err)
			return
		}
		more := fmt.Sprintf("It took %s.", time.Since(day).Round(time.Second))
		if left := o.absent.String(); left != "" {
			more += " " + left
		}
		doc.set(g.name, day, more, tables)
	})
	return doc.String(), errors.Join(append(errs, err)...)
}

// Print measures groups, as Run does, and prints the tables of each when it is
// done. Beside each ratio is the one that an earlier document has.
func Print(ctx context.Context, w io.Writer, names, before string, o Options) error {
	if err := o.validate(names); err != nil {
		return err
	}
	doc := benchKind().parse(before)
	var errs []error
	err := o.each(ctx, names, func(g group, day time.Time, tables []Table, err error) {
		if err != nil {
			errs = append(errs, err)
			return
		}
		for i := range tables {
			tables[i].recall(doc.of[g.name], i)
			_, err := fmt.Fprintf(w, "%s\n", tables[i].Markdown())
			errs = append(errs, err)
		}
		_, err = fmt.Fprintf(w, "%s took %s. %s\n\n", g.name, time.Since(day).Round(time.Second), o.absent.String())
		errs = append(errs, err)
	})
	return errors.Join(append(errs, err)...)
}

// validate sets the defaults and checks the names of groups.
func (o *Options) validate(names string) error {
	if o.Runs <= 0 {
		o.Runs = 5
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, name := range split(names) {
		if !slices.Contains(Names(), name) {
			return fmt.Errorf("no group %q: the groups are %s", name, strings.Join(Names(), ", "))
		}
	}
	return nil
}

func split(names string) []string {
	if names == "" {
		return nil
	}
	return strings.Split(names, ",")
}

// each measures groups and tells of each. What is absent is known of the one
// that was measured last.
func (o *Options) each(ctx context.Context, names string, tell func(group, time.Time, []Table, error)) error {
	wanted := split(names)
	for _, g := range groups() {
		if wanted != nil && !slices.Contains(wanted, g.name) {
			continue
		}
		if o.Quick && g.with != nothing && wanted == nil {
			continue
		}
		o.absent = new(absent)
		if g.with == guix && o.Root == "" {
			return fmt.Errorf("%s needs a folder with a Guix", g.name)
		}
		day := time.Now()
		o.Log.InfoContext(ctx, "measuring", slog.String("group", g.name))
		tables, err := g.run(ctx, *o)
		if err != nil {
			err = fmt.Errorf("measuring %s: %w", g.name, err)
		}
		tell(g, day, tables, err)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}
