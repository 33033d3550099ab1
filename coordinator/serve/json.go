package serve

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
)

// namedJSON is the gateway's JSON with errors that name the field. Those of
// protojson tell a line and a column, which nobody counts in a curl command.
type namedJSON struct{ *runtime.JSONPb }

// NewDecoder implements runtime.Marshaler.
func (j namedJSON) NewDecoder(r io.Reader) runtime.Decoder {
	decoder := json.NewDecoder(r)
	return runtime.DecoderFunc(func(v any) error {
		var text json.RawMessage
		if err := decoder.Decode(&text); err != nil {
			if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge || errors.Is(err, io.EOF) {
				return err // the gateway knows what an empty body means
			}
			return fmt.Errorf("body is not JSON: %w", err)
		}
		return nameField(j.Unmarshal(text, v), text)
	})
}

// placed is how protojson says what is wrong where.
var placed = regexp.MustCompile(`^proto:\s*(?:syntax error )?\(line ([0-9]+):([0-9]+)\):\s*(.*)$`)

// nameField puts the path of the field into an error of protojson about text.
func nameField(err error, text []byte) error {
	if err == nil {
		return nil
	}
	parts := placed.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\u00a0", " "))
	if parts == nil {
		return err
	}
	line, _ := strconv.Atoi(parts[1]) // the expression has digits only
	column, _ := strconv.Atoi(parts[2])
	path := pathAt(text, offsetOf(text, line, column))
	if path == "" {
		path = "body"
	}
	return fmt.Errorf("%s: %s", path, parts[3])
}

// offsetOf returns the offset of a place; lines and columns count from 1, and
// columns in characters.
func offsetOf(text []byte, line, column int) int {
	offset := 0
	for ; line > 1; line-- {
		offset += bytes.IndexByte(text[offset:], '\n') + 1
	}
	for i := range string(text[offset:]) {
		if column--; column == 0 {
			return offset + i
		}
	}
	return len(text)
}

// pathAt returns the path of what begins at an offset of a JSON text, as in
// `retrySchedule[0]`: of a value, or of a key. It is empty for the whole.
func pathAt(text []byte, offset int) string {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var open []level // of objects and lists that have begun
	for {
		before := decoder.InputOffset()
		token, err := decoder.Token()
		if err != nil {
			return pathOf(open)
		}
		begin := int(before) + len(text[before:]) - len(bytes.TrimLeft(text[before:], " \t\r\n,:"))
		delimiter, _ := token.(json.Delim)
		if delimiter == '}' || delimiter == ']' {
			open = open[:len(open)-1]
			continue
		}
		if len(open) > 0 {
			open[len(open)-1].next(token)
		}
		if begin >= offset {
			return pathOf(open)
		}
		if delimiter != 0 {
			open = append(open, level{list: delimiter == '[', index: -1})
		}
	}
}

// level is an object or list, and where in it the reader is.
type level struct {
	list  bool
	index int    // of the element, in a list
	key   string // of the value, in an object
	inKey bool   // the last token was the key
}

// next takes the next token that is directly in the level.
func (l *level) next(token json.Token) {
	switch {
	case l.list:
		l.index++
	case l.inKey:
		l.inKey = false
	default:
		l.key, _ = token.(string)
		l.inKey = true
	}
}

func pathOf(levels []level) string {
	var path strings.Builder
	for _, l := range levels {
		switch {
		case l.list && l.index >= 0:
			fmt.Fprintf(&path, "[%d]", l.index)
		case !l.list && l.key != "":
			if path.Len() > 0 {
				path.WriteByte('.')
			}
			path.WriteString(l.key)
		}
	}
	return path.String()
}
