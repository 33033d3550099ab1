package sink

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxFieldRunes is how much of a text from outside a line shows.
const maxFieldRunes = 80

// String returns the request in one line, for people: time, method and path,
// id, type, bytes, whether the signature was good, the answer, and what was
// odd about it. Text from outside appears in it only as printable characters.
func (r Request) String() string {
	status := "no answer"
	if r.Status != 0 {
		status = strconv.Itoa(r.Status)
	}
	line := fmt.Sprintf("%s %-4s %-14s %-32s %-24s %6d B  %s  %s",
		r.Time.Format("15:04:05.000"), printable(r.Method), printable(r.Path),
		printable(cmp.Or(r.ID, "-")), printable(cmp.Or(r.Type, "-")), len(r.Body), r.Verification, status)
	if notes := r.notes(); len(notes) > 0 {
		line += "  (" + strings.Join(notes, ", ") + ")"
	}
	return line
}

func (r Request) notes() []string {
	var notes []string
	if r.Problem != nil {
		notes = append(notes, printable(r.Problem.Error()))
	}
	if r.Duplicate {
		notes = append(notes, "duplicate")
	}
	if r.OutOfOrder {
		notes = append(notes, "out of order")
	}
	return notes
}

// printable replaces what could move a terminal's cursor, and cuts what is too
// long for a line.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, text)
	if utf8.RuneCountInString(text) <= maxFieldRunes {
		return text
	}
	return string([]rune(text)[:maxFieldRunes-1]) + "…"
}
