// Package man makes manual pages, in the macros of man(7), of commands from
// what their --help says.
//
// The text of help is plain: paragraphs are apart by an empty line, and what is
// indented by two blanks or a tab stays as it is. Nothing in it is markup.
package man

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Options are what all pages of one making have in common.
type Options struct {
	// Date is when the pages were last changed, YYYY-MM-DD. Default: not said.
	Date string
	// Version is of the program. Default: not said.
	Version string
}

// Name returns the name of a command's page, without the section: that of
// "ersatz narinfo sign" is ersatz-narinfo-sign.
func Name(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// Commands returns a command and all below it that are not hidden, those above
// first.
func Commands(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" {
			all = append(all, Commands(c)...)
		}
	}
	return all
}

// Write writes the page of a command for section 1. The error is w's.
func Write(w io.Writer, cmd *cobra.Command, o Options) error {
	p := page{}
	p.begin(Name(cmd), "1", cmd.Short, o)
	p.section("SYNOPSIS")
	p.line(`.B ` + literal(cmd.UseLine()))
	p.section("DESCRIPTION")
	if cmd.Long != "" {
		p.prose(cmd.Long)
	} else {
		p.prose(cmd.Short + ".")
	}
	if children := Commands(cmd)[1:]; len(children) > 0 {
		p.section("COMMANDS")
		for _, c := range children {
			if c.Parent() == cmd {
				p.line(".TP", `.B `+literal(c.Name()), text(c.Short))
			}
		}
	}
	p.flags("OPTIONS", cmd.NonInheritedFlags())
	p.flags("OPTIONS OF ALL COMMANDS", cmd.InheritedFlags())
	if cmd.Example != "" {
		p.section("EXAMPLES")
		p.line(".nf")
		for line := range strings.Lines(cmd.Example) {
			p.line(literal(strings.TrimSpace(line)))
		}
		p.line(".fi")
	}
	p.see(cmd)
	_, err := io.WriteString(w, p.String())
	return err
}

// WriteHelp writes the page, for section 8, of a program of which there is only
// what it prints for --help: a line "Usage: SYNOPSIS", an empty line, and the
// description. The error says that it is something else, or is w's.
func WriteHelp(w io.Writer, name, short, help string, o Options) error {
	usage, rest, ok := strings.Cut(help, "\n\n")
	usage, begins := strings.CutPrefix(usage, "Usage: ")
	if !ok || !begins || strings.Contains(usage, "\n") {
		return fmt.Errorf("man: the help of %s does not begin with its usage", name)
	}
	p := page{}
	p.begin(name, "8", short, o)
	p.section("SYNOPSIS")
	p.line(`.B ` + literal(usage))
	p.section("DESCRIPTION")
	p.prose(rest)
	_, err := io.WriteString(w, p.String())
	return err
}

// page is a page that is being written.
type page struct{ strings.Builder }

func (p *page) line(lines ...string) {
	for _, l := range lines {
		p.WriteString(l + "\n")
	}
}

func (p *page) section(name string) { p.line(`.SH "` + name + `"`) }

// begin writes the head and the section NAME.
func (p *page) begin(name, section, short string, o Options) {
	p.line(fmt.Sprintf(`.TH "%s" "%s" "%s" "%s" ""`, literal(strings.ToUpper(name)), section, text(o.Date), text(strings.TrimSpace("ersatz "+o.Version))))
	p.line(".nh", ".ad l") // hyphens that people would copy, and gaps between words
	p.section("NAME")
	p.line(literal(name) + ` \- ` + text(short))
}

// prose writes paragraphs, and what is indented as it is.
func (p *page) prose(s string) {
	for i, paragraph := range strings.Split(strings.TrimSpace(s), "\n\n") {
		if i > 0 {
			p.line(".PP")
		}
		plain := true
		for line := range strings.Lines(paragraph) {
			line = strings.TrimRight(line, " \n")
			indented := strings.HasPrefix(line, "  ") || strings.HasPrefix(line, "\t")
			if indented == plain {
				p.line(map[bool]string{true: ".nf", false: ".fi"}[indented])
				plain = !indented
			}
			if indented {
				p.line(literal(line))
			} else {
				p.line(text(line))
			}
		}
		if !plain {
			p.line(".fi")
		}
	}
}

// flags writes a section of flags, none if there are none.
func (p *page) flags(section string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	p.section(section)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		head := `\fB` + literal("--"+f.Name) + `\fR`
		if f.Shorthand != "" {
			head = `\fB` + literal("-"+f.Shorthand) + `\fR, ` + head
		}
		if value != "" {
			head += `=\fI` + literal(value) + `\fR`
		}
		p.line(".TP", head)
		usage = capital(usage)
		if d := shown(f); d != "" {
			usage += " (default " + d + ")"
		}
		p.line(text(usage + "."))
	})
}

// shown returns the default of a flag for people, "" if there is none to speak
// of.
func shown(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "false", "0", "[]":
		return ""
	}
	if strings.HasPrefix(f.Value.Type(), "string") && strings.HasPrefix(f.DefValue, "[") {
		return strings.Trim(f.DefValue, "[]")
	}
	return f.DefValue
}

// capital has a sentence begin with a capital.
func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] // not ASCII: as it is
}

// see writes SEE ALSO: the command above, and those below.
func (p *page) see(cmd *cobra.Command) {
	var names []string
	if cmd.HasParent() {
		names = append(names, Name(cmd.Parent()))
	}
	for _, c := range Commands(cmd)[1:] {
		if c.Parent() == cmd {
			names = append(names, Name(c))
		}
	}
	if len(names) == 0 {
		return
	}
	p.section("SEE ALSO")
	for i, name := range names {
		comma := ","
		if i == len(names)-1 {
			comma = ""
		}
		p.line(`.BR ` + literal(name) + ` (1)` + comma)
	}
}

// literal writes what people copy: each hyphen is the one of the keyboard.
func literal(s string) string { return safe(strings.ReplaceAll(escape(s), "-", `\-`)) }

// text writes prose, where words that begin with a hyphen, and paths, are what
// people copy.
func text(s string) string {
	words := strings.Split(escape(s), " ")
	for i, word := range words {
		if bare := strings.TrimLeft(word, `("'`); strings.HasPrefix(bare, "-") || strings.Contains(word, "/") {
			words[i] = strings.ReplaceAll(word, "-", `\-`)
		}
	}
	return safe(strings.Join(words, " "))
}

// escape takes the meaning from backslashes.
func escape(s string) string { return strings.ReplaceAll(s, `\`, `\e`) }

// safe takes the meaning from what would be a request at the start of a line.
func safe(s string) string {
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		return `\&` + s
	}
	return s
}
