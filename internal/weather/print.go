package weather

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Print writes a report for people and, if missing is set, which items cannot
// be had, and why.
func Print(w io.Writer, r Report, missing bool) error {
	var b strings.Builder
	for _, sv := range r.Servers {
		sv.print(&b, len(r.Items))
	}
	if len(r.Peers) > 0 || r.PeersError != "" {
		b.WriteString("peers\n")
	}
	for _, p := range r.Peers {
		fmt.Fprintf(&b, "  %s: %s whole, %d in part\n", shown(p.URL), items(p.Whole), p.Part)
	}
	if r.PeersError != "" {
		fmt.Fprintf(&b, "  not asked: %s\n", shown(r.PeersError))
	}
	fmt.Fprintf(&b, "altogether\n  %s can be had, %d as blocks, %d from peers\n", of(r.Available, len(r.Items)), r.AsBlocks, r.AtPeers)
	if lacking := r.Missing(); missing && len(lacking) > 0 {
		b.WriteString("missing\n")
		for _, it := range lacking {
			fmt.Fprintf(&b, "  %s\n", it.Path)
			for line := range strings.Lines(it.Why) {
				fmt.Fprintf(&b, "    %s\n", shown(strings.TrimSuffix(line, "\n")))
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (sv Server) print(b *strings.Builder, total int) {
	fmt.Fprintf(b, "%s\n  %s, %d by an authorized key, %d as blocks\n", sv.URL, of(sv.Found, total), sv.Authorized, sv.AsBlocks)
	if sv.Found > 0 {
		least := ""
		if sv.Unsized > 0 {
			least = fmt.Sprintf(", without %s whose size it does not say", items(sv.Unsized))
		}
		fmt.Fprintf(b, "  %s of nars%s; %s unpacked\n", size(sv.Compressed), least, size(sv.Uncompressed))
	}
	for _, k := range sv.Keys {
		host, authorized := "", "not authorized"
		if k.Host != "" {
			host = fmt.Sprintf(" (%s)", shown(k.Host))
		}
		if k.Authorized {
			authorized = "authorized"
		}
		fmt.Fprintf(b, "  key %s%s, %s: %s\n", shown(k.ID), host, authorized, items(k.Items))
	}
	if sv.answered > 0 {
		fmt.Fprintf(b, "  %s in %.1f s, %.0f per second, the first after %.0f ms\n", count(sv.answered, "answer"), sv.Seconds, sv.Rate(), 1000*sv.First)
	}
	if sv.Unanswered > 0 {
		fmt.Fprintf(b, "  no answer about %s\n", items(sv.Unanswered))
	}
	if sv.Malformed > 0 {
		fmt.Fprintf(b, "  not a narinfo of theirs for %s\n", items(sv.Malformed))
	}
	if sv.Error != "" {
		fmt.Fprintf(b, "  %s\n", shown(sv.Error))
	}
}

// PrintJSON writes a report as one JSON object.
func PrintJSON(w io.Writer, r Report) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// shown makes a text of others fit for a terminal.
func shown(s string) string {
	const most = 1000
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// items counts items.
func items(n int) string { return count(n, "item") }

// count returns "1 item" or "2 items".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// of says how many of a total, and its share.
func of(n, total int) string {
	share := 100.0
	if total > 0 {
		share *= float64(n) / float64(total)
	}
	return fmt.Sprintf("%d of %s (%.1f %%)", n, items(total), share)
}

// size prints a number of bytes.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d bytes", n)
	}
	v, unit := float64(n)/1024, 0
	for v >= 1024 {
		v, unit = v/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[unit])
}
