package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// maxBatchEvents is the most events that one Publish takes.
	maxBatchEvents = 1000

	// maxBatchBytes ends a batch. The event that reaches it is the last, so a
	// batch can be larger by one line and still is well below the 8 MiB that
	// one Publish takes.
	maxBatchBytes = 4 << 20

	// maxLineBytes is the longest line of a file: room for an event of the
	// server's limit, 256 KiB, with every byte escaped.
	maxLineBytes = 2 << 20
)

// batch is some events of a file, all with ids.
type batch struct {
	events              []*fanfarev1.Event
	firstLine, lastLine int // counted from 1
}

// batchReader reads events from JSON Lines. Empty lines are skipped.
type batchReader struct {
	lines *bufio.Reader
	line  int // number of the last line that was read
}

func newBatchReader(r io.Reader) *batchReader {
	return &batchReader{lines: bufio.NewReaderSize(r, maxLineBytes)}
}

// next returns the next events, at least one, or io.EOF after the last. A
// batch ends when it is full, and when the next line would have to be waited
// for: events that come through a pipe are not held back. A line that is no
// event is an error that names it; the events of its batch are lost with it,
// unpublished.
func (r *batchReader) next() (batch, error) {
	var b batch
	bytes := 0
	for len(b.events) < maxBatchEvents && bytes < maxBatchBytes {
		if len(b.events) > 0 && r.lines.Buffered() == 0 {
			return b, nil
		}
		event, err := r.nextEvent()
		if errors.Is(err, io.EOF) && len(b.events) > 0 {
			return b, nil
		}
		if err != nil {
			return batch{}, err
		}
		if len(b.events) == 0 {
			b.firstLine = r.line
		}
		b.lastLine = r.line
		b.events = append(b.events, event)
		bytes += proto.Size(event)
	}
	return b, nil
}

func (r *batchReader) nextEvent() (*fanfarev1.Event, error) {
	line, err := r.nextLine()
	if err != nil {
		return nil, err
	}
	event, err := parseEvent(line)
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", r.line, err)
	}
	if event.GetId() == "" {
		event.Id = newEventID()
	}
	return event, nil
}

// nextLine returns the next line that is not empty. It is valid until the
// next call.
func (r *batchReader) nextLine() ([]byte, error) {
	for {
		line, err := r.lines.ReadSlice('\n')
		if len(line) == 0 && err != nil {
			return nil, err
		}
		r.line++
		if errors.Is(err, bufio.ErrBufferFull) {
			return nil, fmt.Errorf("line %d: longer than %s", r.line, size(maxLineBytes))
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return line, nil
		}
	}
}

// parseEvent reads one line: a CloudEvent if it names its specversion, else
// an Event as the REST interface has it.
func parseEvent(line []byte) (*fanfarev1.Event, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if fields == nil {
		return nil, errors.New("not a JSON object: null")
	}
	if _, ok := fields["specversion"]; ok {
		return parseCloudEvent(fields)
	}
	return parsePlainEvent(fields)
}

// parsePlainEvent reads an Event in protobuf's JSON, but for data that is not
// a string: that is taken as the JSON it is.
func parsePlainEvent(fields map[string]json.RawMessage) (*fanfarev1.Event, error) {
	data, ok := fields["data"]
	inline := ok && data[0] != '"' && !isNull(data)
	if inline {
		delete(fields, "data")
	}
	rest, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("encoding event: %w", err)
	}
	event := &fanfarev1.Event{}
	if err := protojson.Unmarshal(rest, event); err != nil {
		return nil, plainJSONError(err)
	}
	if inline {
		event.Data = bytes.Clone(data)
	}
	return event, nil
}

// plainJSONError takes from protojson's errors the position, which is not the
// one in the file.
func plainJSONError(err error) error {
	if _, reason, ok := strings.Cut(err.Error(), "): "); ok {
		return errors.New(reason)
	}
	return err
}

// parseCloudEvent reads the JSON format of CloudEvents 1.0. Its partitionkey
// becomes the ordering key.
func parseCloudEvent(fields map[string]json.RawMessage) (*fanfarev1.Event, error) {
	event := &fanfarev1.Event{}
	for name, value := range fields {
		if name == "data" || name == "data_base64" || isNull(value) {
			continue
		}
		attribute, err := attributeText(value)
		if err == nil {
			err = setAttribute(event, name, attribute)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	data, err := cloudEventData(fields, event.GetDataContentType())
	if err != nil {
		return nil, err
	}
	event.Data = data
	return event, nil
}

// attributeText returns a context attribute in the canonical string form: a
// JSON string, boolean or integer.
func attributeText(value json.RawMessage) (string, error) {
	switch value[0] {
	case '"':
		var s string
		err := json.Unmarshal(value, &s)
		return s, err
	case '{', '[':
		return "", errors.New("an attribute is a string, a boolean or an integer")
	default:
		return string(value), nil
	}
}

func setAttribute(event *fanfarev1.Event, name, value string) error {
	switch name {
	case "specversion":
		if value != "1.0" {
			return fmt.Errorf("want 1.0, got %q", value)
		}
	case "id":
		event.Id = value
	case "type":
		event.Type = value
	case "source":
		event.Source = value
	case "subject":
		event.Subject = value
	case "time":
		t, err := time.Parse(time.RFC3339, value)
		if err != nil {
			return err
		}
		event.Time = timestamppb.New(t)
	case "datacontenttype":
		event.DataContentType = value
	case "dataschema":
		event.DataSchema = value
	case "partitionkey":
		event.OrderingKey = value
	default:
		if event.Extensions == nil {
			event.Extensions = make(map[string]string)
		}
		event.Extensions[name] = value
	}
	return nil
}

// cloudEventData returns the data's bytes: base64 decoded, a string of a type
// other than JSON as its text, anything else as the JSON it is.
func cloudEventData(fields map[string]json.RawMessage, contentType string) ([]byte, error) {
	data, hasData := fields["data"]
	encoded, hasBase64 := fields["data_base64"]
	switch {
	case hasData && hasBase64:
		return nil, errors.New("data and data_base64 exclude each other")
	case hasBase64:
		var s string
		if err := json.Unmarshal(encoded, &s); err != nil {
			return nil, fmt.Errorf("data_base64: %w", err)
		}
		raw, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return nil, fmt.Errorf("data_base64: %w", err)
		}
		return raw, nil
	case !hasData:
		return nil, nil
	case data[0] == '"' && !isJSONType(contentType):
		var s string
		err := json.Unmarshal(data, &s)
		return []byte(s), err
	default:
		return bytes.Clone(data), nil
	}
}

// isJSONType reports whether a media type is JSON; none given means JSON.
func isJSONType(contentType string) bool {
	media, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	media = strings.TrimSpace(media)
	return media == "" || strings.HasSuffix(media, "/json") || strings.HasSuffix(media, "+json")
}

func isNull(value json.RawMessage) bool { return string(value) == "null" }
