package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// format says how answers are printed. It is a pflag.Value.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
)

// String implements pflag.Value.
func (f *format) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *format) Type() string { return "format" }

// Set implements pflag.Value.
func (f *format) Set(s string) error {
	switch v := format(strings.ToLower(s)); v {
	case formatTable, formatJSON:
		*f = v
		return nil
	default:
		return fmt.Errorf("want %s or %s", formatTable, formatJSON)
	}
}

// printer writes answers to standard output, each in one write.
type printer struct {
	out    io.Writer
	format format
}

// view is how an answer looks to people.
type view interface {
	// render returns whole lines.
	render() (string, error)
}

// print writes an answer: as indented JSON, or as v shows it.
func (p printer) print(m proto.Message, v view) error {
	if p.format != formatJSON {
		return p.show(v)
	}
	compact, err := toJSON(m)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, compact, "", "  "); err != nil {
		return fmt.Errorf("formatting JSON: %w", err)
	}
	return p.writeln(b.String())
}

// printLine writes one of many answers: as one line of JSON, or as v shows it.
func (p printer) printLine(m proto.Message, v view) error {
	if p.format != formatJSON {
		return p.show(v)
	}
	compact, err := toJSON(m)
	if err != nil {
		return err
	}
	return p.writeln(string(compact))
}

// show writes v, whatever the format is.
func (p printer) show(v view) error {
	s, err := v.render()
	if err != nil {
		return err
	}
	return p.write(s)
}

func (p printer) writeln(s string) error { return p.write(s + "\n") }

func (p printer) write(s string) error {
	if _, err := io.WriteString(p.out, s); err != nil {
		return fmt.Errorf("writing output: %w", err)
	}
	return nil
}

// toJSON returns m as compact JSON, the same bytes for the same message: what
// protojson writes differs in its spaces from build to build.
func toJSON(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding JSON: %w", err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return nil, fmt.Errorf("compacting JSON: %w", err)
	}
	return b.Bytes(), nil
}

// table is a view of many things, one a row.
type table struct {
	header []string
	rows   [][]string
	empty  string // what to say instead if there are no rows
}

// render implements view.
func (t table) render() (string, error) {
	if len(t.rows) == 0 {
		return t.empty + "\n", nil
	}
	return align(append([][]string{t.header}, t.rows...))
}

// details is a view of one thing: names and values. Empty values are left out.
type details [][2]string

// render implements view.
func (d details) render() (string, error) {
	var rows [][]string
	for _, field := range d {
		if field[1] != "" {
			rows = append(rows, []string{field[0] + ":", field[1]})
		}
	}
	return align(rows)
}

// text is a view that is ready.
type text string

// render implements view.
func (t text) render() (string, error) { return string(t), nil }

// views shows one after the other, with an empty line between.
type views []view

// render implements view.
func (v views) render() (string, error) {
	var all []string
	for _, one := range v {
		s, err := one.render()
		if err != nil {
			return "", err
		}
		all = append(all, s)
	}
	return strings.Join(all, "\n"), nil
}

// titled shows a view under a heading.
type titled struct {
	title string
	view  view
}

// render implements view.
func (t titled) render() (string, error) {
	s, err := t.view.render()
	return t.title + "\n" + s, err
}

// align puts cells below each other; an empty one becomes a dash.
func align(rows [][]string) (string, error) {
	const gap = 2
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, gap, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = cmp.Or(singleLine(cell), "-")
		}
		if _, err := io.WriteString(w, strings.Join(cells, "\t")+"\n"); err != nil {
			return "", fmt.Errorf("aligning table: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		return "", fmt.Errorf("aligning table: %w", err)
	}
	return b.String(), nil
}

// singleLine makes s safe for one line of a terminal: what others wrote, as
// an endpoint's answer, must neither break a table nor move the cursor.
func singleLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s))
}

// printable is singleLine for text that may have many lines.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' || r == '\t' {
			return r
		}
		return ' '
	}, s)
}

// shorten cuts s down to a number of characters.
func shorten(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}

// lastPart returns the id at the end of a resource name.
func lastPart(name string) string {
	return name[strings.LastIndexByte(name, '/')+1:]
}

// moment shows a time in the user's zone; an absent one is empty.
func moment(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Local().Format(time.DateTime)
}

// span shows a duration with about three digits; an absent one is empty.
func span(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	v := d.AsDuration()
	switch {
	case v >= time.Second:
		v = v.Round(10 * time.Millisecond)
	case v >= 10*time.Millisecond:
		v = v.Round(time.Millisecond)
	case v >= time.Millisecond:
		v = v.Round(10 * time.Microsecond)
	}
	return shortSpan(v)
}

// shortSpan is Duration.String without the zeros at its end: 5m, not 5m0s.
func shortSpan(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// size shows a number of bytes.
func size(bytes uint64) string {
	const units = "KMGTPE"
	if bytes < 1<<10 {
		return strconv.FormatUint(bytes, 10) + " B"
	}
	value, unit := float64(bytes)/(1<<10), 0
	for value >= 1<<10 {
		value /= 1 << 10
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}

// number shows an integer.
func number[N ~int32 | ~int64 | ~uint64](n N) string {
	return fmt.Sprintf("%d", n)
}

// unlessZero shows an integer that says nothing when it is 0.
func unlessZero[N ~int32 | ~int64 | ~uint64](n N) string {
	if n == 0 {
		return ""
	}
	return number(n)
}
