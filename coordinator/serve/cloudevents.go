package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Media types of the CloudEvents JSON format, and what curl says of a body
// that it was told nothing about.
const (
	structuredType = "application/cloudevents+json"
	batchType      = "application/cloudevents-batch+json"
	formType       = "application/x-www-form-urlencoded"
)

const (
	specVersion = "1.0"
	// partitionKey is the extension attribute that carries the ordering key.
	partitionKey = "partitionkey"
	// envelopeBytes is allowed beside the events themselves.
	envelopeBytes = 1 << 20
)

// decodeCloudEvents reads the events of a request: CloudEvents 1.0 over HTTP
// in binary, structured or batched mode
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md).
//
// It asks for less than the specification: in binary mode `ce-type` is enough,
// so that `curl -H 'ce-type: order.created' -d '{…}'` publishes; what is left
// out is filled in as in Publish.
func decodeCloudEvents(header http.Header, body io.Reader) ([]*fanfarev1.Event, error) {
	data, err := io.ReadAll(io.LimitReader(body, MaxRequestBytes+envelopeBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	if len(data) > MaxRequestBytes+envelopeBytes {
		return nil, &Error{codes.ResourceExhausted, "body", fmt.Sprintf("has more than %d bytes", MaxRequestBytes+envelopeBytes)}
	}
	contentType := header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" {
		return nil, invalid("content-type", "is %q, which is not a media type", contentType)
	}
	switch {
	case mediaType == structuredType:
		event, err := decodeStructured(data)
		return []*fanfarev1.Event{event}, within("body", err)
	case mediaType == batchType:
		return decodeBatch(data)
	case strings.HasPrefix(mediaType, "application/cloudevents"):
		return nil, invalid("content-type", "is %q; the JSON format is understood: %s, %s", mediaType, structuredType, batchType)
	default:
		event, err := decodeBinary(header, contentType, data)
		return []*fanfarev1.Event{event}, err
	}
}

func decodeBatch(data []byte) ([]*fanfarev1.Event, error) {
	var all []json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, invalid("body", "is not a JSON array of events: %s", err.Error())
	}
	events := make([]*fanfarev1.Event, 0, min(len(all), MaxEvents))
	for i, one := range all {
		if i == MaxEvents {
			return nil, invalid("body", "has %d events; at most %d are allowed", len(all), MaxEvents)
		}
		event, err := decodeStructured(one)
		if err != nil {
			return nil, within(fmt.Sprintf("body[%d]", i), err)
		}
		events = append(events, event)
	}
	return events, nil
}

// decodeBinary reads the attributes from `ce-` headers; the body is the data.
func decodeBinary(header http.Header, contentType string, data []byte) (*fanfarev1.Event, error) {
	if header.Get("Ce-Type") == "" {
		return nil, invalid("ce-type", "is missing: send it as a header, or a body of type %s", structuredType)
	}
	if strings.HasPrefix(contentType, formType) {
		contentType = ""
	}
	event := &fanfarev1.Event{DataContentType: contentType, Data: data}
	for key, values := range header {
		name, ok := strings.CutPrefix(strings.ToLower(key), "ce-")
		if !ok {
			continue
		}
		if len(values) != 1 {
			return nil, invalid(strings.ToLower(key), "is given %d times", len(values))
		}
		value, err := decodeHeader(values[0])
		if err != nil {
			return nil, invalid(strings.ToLower(key), "%s", err.Error())
		}
		if err := setAttribute(event, name, value); err != nil {
			return nil, err
		}
	}
	return event, nil
}

// decodeHeader undoes the percent-encoding and quoting of section 3.1.3.2.
func decodeHeader(value string) (string, error) {
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		unquoted, err := strconv.Unquote(value)
		if err != nil {
			return "", errors.New("has a quoted string that does not end")
		}
		value = unquoted
	}
	decoded, err := url.PathUnescape(value)
	if err != nil {
		return "", errors.New("has a % that begins no percent-encoding")
	}
	if !utf8.ValidString(decoded) {
		return "", errors.New("is not UTF-8")
	}
	return decoded, nil
}

// decodeStructured reads one event in the JSON format.
func decodeStructured(data []byte) (*fanfarev1.Event, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, &Error{codes.InvalidArgument, "event", "is not a JSON object: " + err.Error()}
	}
	event := new(fanfarev1.Event)
	for name, raw := range members {
		if name == "data" || name == "data_base64" || string(raw) == "null" {
			continue
		}
		value, err := decodeValue(raw)
		if err != nil {
			return nil, invalid(name, "%s", err.Error())
		}
		if err := setAttribute(event, name, value); err != nil {
			return nil, err
		}
	}
	var err error
	event.Data, err = decodeData(event.GetDataContentType(), members)
	return event, err
}

// decodeValue reads an attribute: a string, a boolean or an integer, of which
// the last two are kept in their canonical text.
func decodeValue(raw json.RawMessage) (string, error) {
	var text string
	if err := json.Unmarshal(raw, &text); err == nil {
		return text, nil
	}
	if s := string(raw); s == "true" || s == "false" {
		return s, nil
	}
	if n, err := strconv.ParseInt(string(raw), 10, 32); err == nil {
		return strconv.FormatInt(n, 10), nil
	}
	return "", errors.New("is neither a string nor a boolean nor a 32-bit integer")
}

// decodeData returns the data's bytes: those of the JSON value itself, or of
// the string in it where the data is not JSON.
func decodeData(contentType string, members map[string]json.RawMessage) ([]byte, error) {
	data, encoded := members["data"], members["data_base64"]
	if data != nil && encoded != nil {
		return nil, invalid("data_base64", "is given beside data")
	}
	if encoded != nil {
		var bytes []byte
		if err := json.Unmarshal(encoded, &bytes); err != nil {
			return nil, invalid("data_base64", "is not base64")
		}
		return bytes, nil
	}
	if data == nil || isJSONType(contentType) {
		return data, nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return data, nil //nolint:nilerr // a JSON value of another type is passed on as it stands
	}
	return []byte(text), nil
}

// setAttribute sets a context attribute by its CloudEvents name.
func setAttribute(event *fanfarev1.Event, name, value string) error {
	switch name {
	case "specversion":
		if value != specVersion {
			return invalid(name, "is %q; %q is understood", value, specVersion)
		}
	case "id":
		event.Id = value
	case "type":
		event.Type = value
	case "source":
		event.Source = value
	case "subject":
		event.Subject = value
	case "dataschema":
		event.DataSchema = value
	case "datacontenttype":
		event.DataContentType = value
	case "time":
		at, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return invalid(name, "is %q, which is not a time of RFC 3339", value)
		}
		event.Time = timestamppb.New(at)
	case partitionKey:
		event.OrderingKey = value
	default:
		if event.Extensions == nil {
			event.Extensions = make(map[string]string)
		}
		event.Extensions[name] = value
	}
	return nil
}
