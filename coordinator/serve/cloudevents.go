package serve

import (
	"encoding/base64"
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

	"google.golang.org/protobuf/proto"
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
	// maxBodyBytes is how long the body of a request over HTTP may be: events
	// of MaxRequestBytes fit, even in base64.
	maxBodyBytes = 2 * MaxRequestBytes
)

// decodeCloudEvents reads the events of a request: CloudEvents 1.0 over HTTP
// in binary, structured or batched mode
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md).
//
// It asks for less than the specification: in binary mode `ce-type` is enough,
// so that `curl -H 'ce-type: order.created' -d '{…}'` publishes; what is left
// out is filled in as in Publish.
func decodeCloudEvents(header http.Header, body io.Reader) ([]*fanfarev1.Event, error) {
	events, err := decodeBody(header, body)
	if err != nil {
		return nil, err
	}
	total := 0
	for _, event := range events {
		// Publish checks it too, but gRPC would not let much more through.
		if total += proto.Size(event); total > MaxRequestBytes {
			return nil, invalid("events", "has more than %d bytes together", MaxRequestBytes)
		}
	}
	return events, nil
}

func decodeBody(header http.Header, body io.Reader) ([]*fanfarev1.Event, error) {
	data, err := io.ReadAll(io.LimitReader(body, maxBodyBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	if len(data) > maxBodyBytes {
		return nil, invalid("body", "has more than %d bytes", maxBodyBytes)
	}
	contentType := header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" || !utf8.ValidString(contentType) {
		return nil, invalid("content-type", "is %q, which is not a media type", contentType)
	}
	if mediaType == formType {
		contentType = ""
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
	event := &fanfarev1.Event{DataContentType: contentType, Data: data}
	for key, values := range header {
		field := strings.ToLower(key)
		name, ok := strings.CutPrefix(field, "ce-")
		switch {
		case !ok:
			continue
		case name == "datacontenttype":
			return nil, invalid(field, "is given: in binary mode the header content-type says it")
		case len(values) != 1:
			return nil, invalid(field, "is given %d times", len(values))
		}
		value, err := decodeHeader(values[0])
		if err == nil {
			err = setAttribute(event, name, value)
		}
		if err != nil {
			return nil, invalid(field, "%s", err.Error())
		}
	}
	return event, nil
}

// decodeHeader undoes the quoting and the percent-encoding of section 3.1.3.2.
func decodeHeader(value string) (string, error) {
	if strings.HasPrefix(value, `"`) {
		var err error
		if value, err = unquote(value); err != nil {
			return "", err
		}
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

// unquote reads a quoted-string (RFC 7230, section 3.2.6), in which a backslash
// stands for the character behind it. There are no other escapes.
func unquote(quoted string) (string, error) {
	text := make([]byte, 0, len(quoted))
	for i := 1; i < len(quoted); i++ {
		switch c := quoted[i]; {
		case c == '"' && i == len(quoted)-1:
			return string(text), nil
		case c == '"':
			return "", errors.New("has a quoted string that ends too soon")
		case c == '\\' && i+1 < len(quoted):
			i++
			text = append(text, quoted[i])
		default:
			text = append(text, c)
		}
	}
	return "", errors.New("has a quoted string that does not end")
}

// decodeStructured reads one event in the JSON format.
func decodeStructured(data []byte) (*fanfarev1.Event, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, invalid("", "is not a JSON object: %s", err.Error())
	}
	event := new(fanfarev1.Event)
	for name, raw := range members {
		if name == "data" || name == "data_base64" || string(raw) == "null" {
			continue
		}
		value, err := decodeValue(raw)
		if err == nil {
			err = setAttribute(event, name, value)
		}
		if err != nil {
			return nil, invalid(name, "%s", err.Error())
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
	if encoded != nil && string(encoded) != "null" {
		if data != nil {
			return nil, invalid("data_base64", "is given beside data")
		}
		return decodeBase64(encoded)
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

func decodeBase64(encoded json.RawMessage) ([]byte, error) {
	var text string
	if err := json.Unmarshal(encoded, &text); err != nil {
		return nil, invalid("data_base64", "is not a string")
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, invalid("data_base64", "is not base64")
	}
	return data, nil
}

// setAttribute sets a context attribute by its CloudEvents name.
func setAttribute(event *fanfarev1.Event, name, value string) error {
	switch name {
	case "specversion":
		if value != specVersion {
			return fmt.Errorf("is %q; %q is understood", value, specVersion)
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
			return fmt.Errorf("is %q, which is not a time of RFC 3339", value)
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
